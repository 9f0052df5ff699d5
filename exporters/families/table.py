"""All rows, by `model_type`."""

from __future__ import annotations

from collections.abc import Mapping

from skipstone.exporters.families.family import Family
from skipstone.exporters.families.gemma import GEMMA_FAMILIES
from skipstone.exporters.families.gemma3n import GEMMA3N_FAMILIES
from skipstone.exporters.families.gpt import GPT_FAMILIES
from skipstone.exporters.families.llama import LLAMA_FAMILIES
from skipstone.exporters.families.mixture import MIXTURE_FAMILIES

__all__ = ["FAMILIES"]

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (*LLAMA_FAMILIES, *GEMMA_FAMILIES, *GEMMA3N_FAMILIES, *GPT_FAMILIES, *MIXTURE_FAMILIES)
}

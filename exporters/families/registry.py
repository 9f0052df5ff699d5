"""Families by `model_type`: ours, and those that other packages bring."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from skipstone.errors import ConfigError
from skipstone.exporters.families.family import Family
from skipstone.exporters.families.gemma import GEMMA_FAMILIES
from skipstone.exporters.families.gemma3n import GEMMA3N_FAMILIES
from skipstone.exporters.families.gpt import GPT_FAMILIES
from skipstone.exporters.families.llama import LLAMA_FAMILIES
from skipstone.exporters.families.mixture import MIXTURE_FAMILIES

__all__ = ["FAMILIES", "GROUP", "registered_families"]

GROUP = "skipstone.families"
FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (*LLAMA_FAMILIES, *GEMMA_FAMILIES, *GEMMA3N_FAMILIES, *GPT_FAMILIES, *MIXTURE_FAMILIES)
}
"""Our own rows."""


def registered_families() -> Mapping[str, Family]:
    """Return all families by name. The value of an entry point is a row or a tuple of rows.

    Raises: ConfigError when two have the same name, or another package's cannot be loaded.
    """
    families = dict(FAMILIES)
    for entry in entry_points(group=GROUP):
        for family in _rows(entry):
            if family.model_type in families:
                raise ConfigError(
                    f"the family {family.model_type} is registered twice, the second time by {entry.value}: "
                    "uninstall that package"
                )
            families[family.model_type] = family
    return families


def _rows(entry: EntryPoint) -> tuple[Family, ...]:
    try:
        value = entry.load()
    except Exception as error:  # whatever is wrong with another package
        raise ConfigError(f"the families of {entry.value} cannot be loaded: {error}; uninstall that package") from error
    rows = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(row, Family) for row in rows):
        raise ConfigError(f"{entry.value} must be a Family or a tuple of them, found {value!r:.80}")
    return rows

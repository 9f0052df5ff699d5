"""Calibrated exports: weights rounded by what they are multiplied by on a text, and recipes that keep a budget."""

from __future__ import annotations

from skipstone.calibrate.budget import Budget
from skipstone.calibrate.cache_scales import CacheScalesOfText
from skipstone.calibrate.documents import AUTO, Documents
from skipstone.calibrate.export import Calibration, within_budget
from skipstone.calibrate.hessians import batches, hessians, through
from skipstone.calibrate.layer_graphs import LayerGraph, LayerGraphs
from skipstone.calibrate.windows import Windows, template_of, token_ids_of, tokenizer_of

__all__ = [
    "AUTO",
    "Budget",
    "CacheScalesOfText",
    "Calibration",
    "Documents",
    "LayerGraph",
    "LayerGraphs",
    "Windows",
    "batches",
    "hessians",
    "template_of",
    "through",
    "token_ids_of",
    "tokenizer_of",
    "within_budget",
]

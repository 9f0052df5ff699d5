"""A checkpoint becomes a bundle: what is asked for, what is planned, what is written."""

from __future__ import annotations

from skipstone.exporters.draft_pair import with_draft_model
from skipstone.exporters.export import ExportPlan, plan_export
from skipstone.exporters.kept_integers import all_numbers
from skipstone.exporters.options import SMALL_MODEL, ExportKeywords, ExportOptions, PlanKeywords, Precision
from skipstone.exporters.recipe_file import RecipeFile
from skipstone.exporters.stages import plan_stages

__all__ = [
    "SMALL_MODEL",
    "ExportKeywords",
    "ExportOptions",
    "ExportPlan",
    "PlanKeywords",
    "Precision",
    "RecipeFile",
    "all_numbers",
    "plan_export",
    "plan_stages",
    "with_draft_model",
]

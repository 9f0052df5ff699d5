"""A checkpoint becomes a bundle: what is asked for, what is planned, what is written."""

from __future__ import annotations

from skipstone.exporters.draft_pair import with_draft_model
from skipstone.exporters.export import ExportPlan, plan_export
<<<<<<< HEAD
from skipstone.exporters.options import SMALL_MODEL, ExportKeywords, ExportOptions, PlanKeywords, Precision
=======
from skipstone.exporters.options import ExportKeywords, ExportOptions, PlanKeywords, Precision
from skipstone.exporters.recipe_file import RecipeFile
>>>>>>> 152eeb7 (Recipes from files: bits, blocks, methods, scales and rotations; a bundle's recipe makes it again)
from skipstone.exporters.stages import plan_stages

__all__ = [
    "SMALL_MODEL",
    "ExportKeywords",
    "ExportOptions",
    "ExportPlan",
    "PlanKeywords",
    "Precision",
    "RecipeFile",
    "plan_export",
    "plan_stages",
    "with_draft_model",
]

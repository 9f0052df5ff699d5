"""A checkpoint becomes a bundle: what is asked for, what is planned, what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.exporters.export import ExportPlan, plan_export
    from skipstone.exporters.options import ExportKeywords, ExportOptions, PlanKeywords, Precision
    from skipstone.exporters.stages import parse_cuts, parse_draft_head, parse_exits, plan_stages

__all__ = [
    "ExportKeywords",
    "ExportOptions",
    "ExportPlan",
    "PlanKeywords",
    "Precision",
    "parse_cuts",
    "parse_draft_head",
    "parse_exits",
    "plan_export",
    "plan_stages",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ExportKeywords": "skipstone.exporters.options",
        "ExportOptions": "skipstone.exporters.options",
        "ExportPlan": "skipstone.exporters.export",
        "PlanKeywords": "skipstone.exporters.options",
        "Precision": "skipstone.exporters.options",
        "parse_cuts": "skipstone.exporters.stages",
        "parse_draft_head": "skipstone.exporters.stages",
        "parse_exits": "skipstone.exporters.stages",
        "plan_export": "skipstone.exporters.export",
        "plan_stages": "skipstone.exporters.stages",
    },
)

"""None"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.exporters.export import ExportPlan, plan_export, write_bundle
    from skipstone.exporters.stages import parse_cuts, parse_draft_head, parse_exits, plan_stages

__all__ = ["ExportPlan", "parse_cuts", "parse_draft_head", "parse_exits", "plan_export", "plan_stages", "write_bundle"]

__getattr__ = lazy_names(
    __name__,
    {
        "ExportPlan": "skipstone.exporters.export",
        "parse_cuts": "skipstone.exporters.stages",
        "parse_draft_head": "skipstone.exporters.stages",
        "parse_exits": "skipstone.exporters.stages",
        "plan_export": "skipstone.exporters.export",
        "plan_stages": "skipstone.exporters.stages",
        "write_bundle": "skipstone.exporters.export",
    },
)

"""Models by their names: what is no bundle is exported once and kept. Light: a shell's completion imports it."""

from __future__ import annotations

from skipstone.by_name.kept_export import KeptExport, exports_folder, kept_exports
from skipstone.by_name.model_name import MANIFEST_NAME
from skipstone.by_name.resolve import resolve

__all__ = ["MANIFEST_NAME", "KeptExport", "exports_folder", "kept_exports", "resolve"]

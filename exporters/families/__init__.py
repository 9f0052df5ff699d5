"""The families that we can export: one row each. A new family should be a new row."""

from __future__ import annotations

from skipstone.exporters.families.family import Family
from skipstone.exporters.families.reading import read_architecture
from skipstone.exporters.families.table import FAMILIES

__all__ = ["FAMILIES", "Family", "read_architecture"]

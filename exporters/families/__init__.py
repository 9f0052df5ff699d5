"""The families that we can export: one row each. A new family should be a new row."""

from __future__ import annotations

from skipstone.exporters.families.altup import AltUp
from skipstone.exporters.families.architecture import Architecture
from skipstone.exporters.families.experts import Experts
from skipstone.exporters.families.family import LLAMA_NAMES, Family, names_of, stated
from skipstone.exporters.families.reading import read_architecture
from skipstone.exporters.families.registry import FAMILIES
from skipstone.exporters.families.rotary import Rotary, read_rotary

__all__ = [
    "FAMILIES",
    "LLAMA_NAMES",
    "AltUp",
    "Architecture",
    "Experts",
    "Family",
    "Rotary",
    "names_of",
    "read_architecture",
    "read_rotary",
    "stated",
]

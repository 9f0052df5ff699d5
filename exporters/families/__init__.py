"""The families that we can export: one row each. A new family should be a new row."""

from __future__ import annotations

from skipstone.exporters.families.altup import AltUp
from skipstone.exporters.families.architecture import Architecture
from skipstone.exporters.families.carving import CarvedFfn, Carving
from skipstone.exporters.families.experts import Experts
from skipstone.exporters.families.family import LLAMA_NAMES, Family, names_of
from skipstone.exporters.families.reading import first_names, read_architecture
from skipstone.exporters.families.registry import FAMILIES

__all__ = [
    "FAMILIES",
    "LLAMA_NAMES",
    "AltUp",
    "Architecture",
    "CarvedFfn",
    "Carving",
    "Experts",
    "Family",
    "first_names",
    "names_of",
    "read_architecture",
]

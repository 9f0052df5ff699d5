"""A bundle on disk: its manifest, how it is read and written, and what was found out about it later."""

from __future__ import annotations

from skipstone.runtime.bundle.beside import beside
from skipstone.runtime.bundle.buckets import Buckets
from skipstone.runtime.bundle.bundle import Bundle, read_manifest
from skipstone.runtime.bundle.experts_entry import ExpertLevel, ExpertsEntry
from skipstone.runtime.bundle.file_entry import FileEntry, Provenance
from skipstone.runtime.bundle.graph_outline import GraphOutline
from skipstone.runtime.bundle.graph_rules import OPERATORS, TRACED_OPERATORS, require_graph, require_operators
from skipstone.runtime.bundle.manifest import MANIFEST_NAME, Dimensions, LayerCache, Manifest, StageEntry
from skipstone.runtime.bundle.measuring import MeasuringWatch, measured_by
from skipstone.runtime.bundle.notes import Note
from skipstone.runtime.bundle.ring_layout import RingLayout
from skipstone.runtime.bundle.rotary_entry import RotaryEntry
from skipstone.runtime.bundle.signature import SIGNATURE_NAME, TRUST, SigningKey, trusted_paths
from skipstone.runtime.bundle.tokenizer_file import decoder_steps
from skipstone.runtime.bundle.typed_json import DataError, format_of, parse_json, read_typed
from skipstone.runtime.bundle.variants import (
    PLAIN_CACHE,
    PREFILL,
    SPARSE,
    Variants,
    graph_of,
    kind_and_cache,
    variant_file,
    variant_name,
)
from skipstone.runtime.bundle.whole_file import write_whole
from skipstone.runtime.bundle.writer import BundleWriter, Check, finish, write_manifest

__all__ = [
    "MANIFEST_NAME",
    "OPERATORS",
    "PLAIN_CACHE",
    "PREFILL",
    "SIGNATURE_NAME",
    "SPARSE",
    "TRACED_OPERATORS",
    "TRUST",
    "Buckets",
    "Bundle",
    "BundleWriter",
    "Check",
    "DataError",
    "Dimensions",
    "ExpertLevel",
    "ExpertsEntry",
    "FileEntry",
    "GraphOutline",
    "LayerCache",
    "Manifest",
    "MeasuringWatch",
    "Note",
    "Provenance",
    "RingLayout",
    "RotaryEntry",
    "SigningKey",
    "StageEntry",
    "Variants",
    "beside",
    "decoder_steps",
    "finish",
    "format_of",
    "graph_of",
    "kind_and_cache",
    "measured_by",
    "parse_json",
    "read_manifest",
    "read_typed",
    "require_graph",
    "require_operators",
    "trusted_paths",
    "variant_file",
    "variant_name",
    "write_manifest",
    "write_whole",
]

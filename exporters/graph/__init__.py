"""What is written: the nodes and weights of every graph."""

from __future__ import annotations

from skipstone.exporters.graph.bucket_graphs import BucketGraphs
from skipstone.exporters.graph.head_channels import kernel_head_size
from skipstone.exporters.graph.kernels import MICROSOFT, PACKED_PRODUCT, Kernels, OrtKernels, packed_product_attributes
from skipstone.exporters.graph.matrix_names import matrix_names
from skipstone.exporters.graph.mixture import EXACT_BLOCKS
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.pen import FLOAT, GraphPen
from skipstone.exporters.graph.prefill_kernels import PREFILL_GRAPHS
from skipstone.exporters.graph.rings import ring_layout, ring_windows
from skipstone.exporters.graph.rounding import Rounder, rounded
from skipstone.exporters.graph.stage_graphs import (
    build_draft_head,
    build_embedding,
    build_exit,
    build_head,
    build_stage,
    write_variant,
)
from skipstone.exporters.graph.targets import TARGETS
from skipstone.exporters.graph.variant import PLAIN, CacheScales, GraphVariant
from skipstone.exporters.graph.weight_file import StoredMatrix, WeightFile

__all__ = [
    "EXACT_BLOCKS",
    "FLOAT",
    "MICROSOFT",
    "PACKED_PRODUCT",
    "PLAIN",
    "PREFILL_GRAPHS",
    "TARGETS",
    "BucketGraphs",
    "CacheScales",
    "GraphPen",
    "GraphVariant",
    "Kernels",
    "ModelWeights",
    "OrtKernels",
    "Rounder",
    "StoredMatrix",
    "WeightFile",
    "build_draft_head",
    "build_embedding",
    "build_exit",
    "build_head",
    "build_stage",
    "kernel_head_size",
    "matrix_names",
    "packed_product_attributes",
    "ring_layout",
    "ring_windows",
    "rounded",
    "write_variant",
]

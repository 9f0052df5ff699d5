"""What is written: the nodes and weights of every graph."""

from __future__ import annotations

from skipstone.exporters.graph.expert_store import expert_rule
from skipstone.exporters.graph.head_channels import kernel_head_size
from skipstone.exporters.graph.kernels import MICROSOFT, PACKED_PRODUCT, OrtKernels, packed_product_attributes
from skipstone.exporters.graph.linear import Linear
from skipstone.exporters.graph.mixture import EXACT_BLOCKS, mixture
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.pen import FLOAT, GraphPen
from skipstone.exporters.graph.stage_graphs import build_draft_head, build_exit, build_head, build_stage
from skipstone.exporters.graph.targets import TARGETS
from skipstone.exporters.graph.weight_file import StoredMatrix, WeightFile

__all__ = [
    "EXACT_BLOCKS",
    "FLOAT",
    "MICROSOFT",
    "PACKED_PRODUCT",
    "TARGETS",
    "GraphPen",
    "Linear",
    "ModelWeights",
    "OrtKernels",
    "StoredMatrix",
    "WeightFile",
    "build_draft_head",
    "build_exit",
    "build_head",
    "build_stage",
    "expert_rule",
    "kernel_head_size",
    "mixture",
    "packed_product_attributes",
]

"""A model in, a model out: what changes architecture and tensors before the graph is written."""

from __future__ import annotations

from skipstone.exporters.transforms.carve_experts import CarveExperts, ExpertLayer, refuse_carving
from skipstone.exporters.transforms.drop_blocks import DropBlocks, SplitLayers
from skipstone.exporters.transforms.drop_layers import DropLayers
from skipstone.exporters.transforms.ffn_width import FfnWidth
from skipstone.exporters.transforms.fold_points import FoldPoint, fold_points
from skipstone.exporters.transforms.folding import Folding
from skipstone.exporters.transforms.gain_folding import GainFolding
from skipstone.exporters.transforms.lora import Lora
from skipstone.exporters.transforms.narrow_ffn import NarrowFfn, refuse_narrow
from skipstone.exporters.transforms.rotation import Rotation
from skipstone.exporters.transforms.transform import ChangedTensors, Transform, apply

__all__ = [
    "CarveExperts",
    "ChangedTensors",
    "DropBlocks",
    "DropLayers",
    "ExpertLayer",
    "FfnWidth",
    "FoldPoint",
    "Folding",
    "GainFolding",
    "Lora",
    "NarrowFfn",
    "Rotation",
    "SplitLayers",
    "Transform",
    "apply",
    "fold_points",
    "refuse_carving",
    "refuse_narrow",
]

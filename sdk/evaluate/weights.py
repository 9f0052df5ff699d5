"""How many numbers the weights of a bundle are, however they are packed."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from skipstone.runtime.bundle import Bundle

__all__ = ["num_weights"]


@dataclass(frozen=True, slots=True)
class _Packed:
    """Which inputs of an operator are packed weights, and the attribute with their bits."""

    weights: tuple[int, ...]
    bits: str


_PACKED = {
    "MatMulNBits": _Packed((1,), "bits"),
    "GatherBlockQuantized": _Packed((0,), "bits"),
    "QMoE": _Packed((2, 5, 8), "expert_weight_bits"),
}
_BESIDE_WEIGHTS = ("scales", "zero_points", "offsets", "rotary")


def num_weights(bundle: Bundle) -> int:
    """Return how many weights a bundle has, a tensor that graphs share once, without tables of angles."""
    manifest, counts = bundle.manifest, dict[int, int]()
    for file in [*(stage.file for stage in manifest.stages), *([manifest.head] if manifest.head else [])]:
        for node in ir.load(bundle.path / file).graph.all_nodes():
            for index, value in enumerate(node.inputs):
                tensor = None if value is None else value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    place = tensor.offset or 0
                    counts[place] = max(counts.get(place, 0), _num_weights(node, index, tensor))
    return sum(counts.values())


def _num_weights(node: ir.Node, index: int, tensor: ir.ExternalTensor) -> int:
    """Return how many weights a tensor holds for a node: none where it says what others mean."""
    if (packed := _PACKED.get(node.op_type)) and index in packed.weights:
        return tensor.nbytes * 8 // node.attributes.get_int(packed.bits, 4)
    is_weight = tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 8
    name = tensor.name or ""
    return tensor.size if is_weight and not any(part in name for part in _BESIDE_WEIGHTS) else 0

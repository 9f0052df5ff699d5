"""How many numbers the weights of a bundle are, however they are packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from skipstone.runtime.bundle import Bundle

__all__ = ["num_weights"]


@dataclass(frozen=True, slots=True)
class _Packed:
    """Which inputs of an operator are packed weights, and its attribute for their bits."""

    weights: tuple[int, ...]
    bits: str = "bits"


_PACKED = {
    "MatMulNBits": _Packed((1,)),
    "GatherBlockQuantized": _Packed((0,)),
    "QMoE": _Packed((2, 5, 8), "expert_weight_bits"),
}
_LARGEST_BLOCK = 128
_BESIDE_WEIGHTS = ("scales", "zero_points", "offsets", "rotary")


def num_weights(bundle: Bundle) -> int:
    """Return how many weights a bundle has, a tensor that graphs share once, without tables of angles.

    What rows were filled up with to whole blocks does not count.
    """
    uses = [*_uses(bundle)]
    lengths = _lengths(bundle, uses)
    counts: dict[int, int] = {}
    for node, index, tensor in uses:
        place = tensor.offset or 0
        counts[place] = max(counts.get(place, 0), _num_weights(node, index, tensor, lengths))
    return sum(counts.values())


def _uses(bundle: Bundle) -> Iterator[tuple[ir.Node, int, ir.ExternalTensor]]:
    """Yield each node with a stored tensor and its place among the inputs."""
    manifest = bundle.manifest
    for file in [*(stage.file for stage in manifest.stages), *([manifest.head] if manifest.head else [])]:
        for node in ir.load(bundle.file(file)).graph.all_nodes():
            for index, value in enumerate(node.inputs):
                if value is not None and isinstance(value.const_value, ir.ExternalTensor):
                    yield node, index, value.const_value


def _lengths(bundle: Bundle, uses: Sequence[tuple[ir.Node, int, ir.ExternalTensor]]) -> Mapping[str, int]:
    """Return the length of a row of matrices by what they are called: those whose inputs have one length."""
    d = bundle.manifest.dimensions
    lengths = dict.fromkeys(("qkv", "gate_up", "up", "head", "embedding"), d.hidden_size)
    widths = {
        node.attributes.get_int("N", 0) // (2 if part == "gate_up" else 1)
        for node, _, tensor in uses
        if (part := _part(tensor)) in ("gate_up", "up") and node.op_type == "MatMulNBits"
    }
    return lengths | {"o": d.num_heads * d.head_size} | ({"down": widths.pop()} if len(widths) == 1 else {})


def _part(tensor: ir.ExternalTensor) -> str:
    """Return the part of a tensor called `layers.3.qkv.data`, `head.data` and so on."""
    words = (tensor.name or "").split(".")
    return words[2] if words[0] == "layers" and len(words) > 2 else words[0]


def _num_weights(node: ir.Node, index: int, tensor: ir.ExternalTensor, lengths: Mapping[str, int]) -> int:
    """Return how many weights a tensor holds for a node: none where it says what others mean."""
    if (packed := _PACKED.get(node.op_type)) and index in packed.weights:
        stored = tensor.nbytes * 8 // node.attributes.get_int(packed.bits, 4)
        rows = node.attributes.get_int("N", 0) or tensor.shape.numpy()[0]
        length = lengths.get(_part(tensor), 0)
        return rows * length if 0 < length <= stored // rows < length + _LARGEST_BLOCK else stored
    is_weight = tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 8
    name = tensor.name or ""
    return tensor.size if is_weight and not any(part in name for part in _BESIDE_WEIGHTS) else 0

"""What the sparse graphs of a bundle know of their carved FFNs: how wide experts are, and what routes them.

Shapes: E hidden size, R routed experts of M neurons each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import SPARSE, Bundle

__all__ = ["LEARNED", "CarvedLayer", "carved_layers", "sparse_files"]

Floats: TypeAlias = NDArray[np.float32]
LEARNED: Final = ("expert_router", "expert_offset", "expert_gain", "expert_rest", "expert_boost")
"""The tensors of a carved FFN that are learned, by our names."""
_TENSOR: Final = re.compile(r"layers\.(\d+)\.(\w+)")
_EXPERTS: Final = ("MoE", "QMoE")


@dataclass(frozen=True, slots=True, eq=False)
class CarvedLayer:
    """One carved FFN: `num_routed` experts of `width` neurons, the first of all, and its LEARNED `tensors`.

    A linear router is `expert_router` [E, R] and `expert_offset` [R]; one by neurons is `expert_gain` [R]. There may be
    `expert_rest` [R, E], which stands in for experts that are left out, and `expert_boost` [R, 1], which makes others
    louder by the share of those.
    """

    num_routed: int
    width: int
    tensors: Mapping[str, Floats]

    @property
    def num_neurons(self) -> int:
        """How many neurons belong to routed experts."""
        return self.num_routed * self.width


def sparse_files(bundle: Bundle) -> list[str]:
    """Return the files of all graphs that run some experts, whatever their cache; each once."""
    manifest = bundle.manifest
    if manifest.experts is None:
        raise ConfigError(
            f"{bundle.path} has no experts to train; make some with `skipstone export CHECKPOINT -o OUT --experts auto`"
        )
    return [
        file for name, files in manifest.variants.items() if name.split("+")[0] == SPARSE for file in files.values()
    ]


def carved_layers(bundle: Bundle) -> dict[int, CarvedLayer]:
    """Return the carved FFNs by layer. Raises: ConfigError for a bundle without experts."""
    sparse_files(bundle)
    layers: dict[int, CarvedLayer] = {}
    for file in bundle.manifest.variants[SPARSE].values():
        layers |= _layers_of(ir.load(bundle.file(file)).graph)
    return dict(sorted(layers.items()))


def _layers_of(graph: ir.Graph) -> dict[int, CarvedLayer]:
    tensors: dict[int, dict[str, Floats]] = {}
    for name, value in graph.initializers.items():
        match = _TENSOR.fullmatch(name)
        if match and match[2] in LEARNED and value.const_value is not None:
            tensors.setdefault(int(match[1]), {})[match[2]] = np.array(value.const_value.numpy(), np.float32)
    return {layer: CarvedLayer(*_shape(graph, layer), found) for layer, found in tensors.items()}


def _shape(graph: ir.Graph, layer: int) -> tuple[int, int]:
    """Return how many routed experts a layer has, and their width: of gate and up, [R, 2M, ...]."""
    for node in graph:
        gate_up = node.inputs[2] if node.op_type in _EXPERTS else None
        if gate_up is not None and (gate_up.name or "").startswith(f"layers.{layer}.") and gate_up.shape is not None:
            num_routed, num_rows = gate_up.shape.numpy()[:2]
            return int(num_routed), int(num_rows) // 2
    raise ConfigError(f"the sparse graph of layer {layer} has no operator for experts, so it was not made by an export")

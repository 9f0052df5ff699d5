"""Dense FFNs carved into experts: the same model, whose neurons stand expert by expert, and a router for each layer.

Shapes: E hidden size, I inner width of a layer, R routed experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture, CarvedFfn, Carving
from skipstone.exporters.transforms.narrowed_tensors import NarrowedTensors, kept_channels
from skipstone.exporters.transforms.transform import Transform
from skipstone.exporters.transforms.weight_changes import WeightChanges
from skipstone.runtime.bundle import ExpertLevel, ExpertsEntry

__all__ = ["CarveExperts", "ExpertLayer", "refuse_carving"]

Floats: TypeAlias = NDArray[np.float32]
_SHARES: Final = (1.0, 0.75, 0.5, 0.25)
_ROUTER: Final = "carving.layers.{layer}"


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLayer:
    """How the FFN of one layer is carved: its `neurons` [I], expert by expert, and what its router reads.

    That are tensors by our names: see `CarvedFfn.router_shapes`.
    """

    ffn: CarvedFfn
    neurons: NDArray[np.int64]
    router: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class CarveExperts(Transform):
    """Puts the neurons of dense FFNs in the order of experts, with a router for each layer; the model stays the same.

    `layers` are by number, `active` is the share of experts that is active by default, and `kl` what that costs, None
    where unknown. Integers of these FFNs become
    numbers.
    Source: CMoE (Pei et al., 2025), MoEfication (Zhang et al., 2022).
    """

    num_experts: int
    num_shared: int
    layers: Mapping[int, ExpertLayer]
    active: float = 0.5
    kl: float | None = None

    def __str__(self) -> str:
        return f"FFNs carved into {self.num_experts} experts"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel for FFNs that cannot be carved, ConfigError for layers that are not those here."""
        refuse_carving(architecture)
        for layer, carved in self.layers.items():
            is_layer = 0 <= layer < architecture.dimensions.num_layers and architecture.has_ffn(layer)
            width = architecture.ffn_widths[layer] if is_layer else 0
            if not np.array_equal(np.sort(carved.neurons), np.arange(width)) or not width:
                raise ConfigError(f"--experts: layer {layer} has {width} neurons; each must be in one expert")
            shapes = {name: tensor.shape for name, tensor in carved.router.items()}
            if shapes != carved.ffn.router_shapes(architecture.dimensions.hidden_size):
                raise ConfigError(f"--experts: the router of layer {layer} does not fit the layer: carve again")

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the model with this order of neurons."""
        numbers = range(architecture.dimensions.num_layers)
        layers = tuple(self.layers[layer].ffn if layer in self.layers else None for layer in numbers)
        carving = Carving(num_experts=self.num_experts, num_shared=self.num_shared, layers=layers)
        of_router = {name for layer in self.layers.values() for name in layer.router}
        names = {name: f"{_ROUTER}.{name}" for name in of_router}
        carved = replace(architecture, carving=carving, names={**architecture.names, **names})
        changed = WeightChanges(self._reordered(architecture, tensors), carved)
        for number, layer in self.layers.items():
            for name, tensor in layer.router.items():
                changed.add(names[name].format(layer=number), tensor.shape, tensor.copy)
        return carved, changed

    def _reordered(self, architecture: Architecture, tensors: TensorSource) -> TensorSource:
        orders = [
            self.layers[layer].neurons if layer in self.layers else np.arange(width)
            for layer, width in enumerate(architecture.ffn_widths)
        ]
        return _ReorderedTensors(tensors, architecture.tensor_shapes(), kept_channels(architecture, orders))

    def entry(self, num_layers: int) -> ExpertsEntry:
        """Return what the manifest says: all layers have the same share of active experts at each level."""
        shares = sorted({*_SHARES, self.active}, reverse=True)
        levels = {
            f"{share:g}": ExpertLevel(
                active=self.active_at(share, num_layers), kl=self.kl if share == self.active else None
            )
            for share in shares
        }
        return ExpertsEntry(
            num_experts=self.num_experts, num_shared=self.num_shared, levels=levels, default=f"{self.active:g}"
        )

    def active_at(self, share: float, num_layers: int) -> tuple[int, ...]:
        """Return how many experts of each layer hold this share of its neurons, shared ones with them.

        One of the others is always active.
        """
        layers = (self.layers.get(layer) for layer in range(num_layers))
        return tuple(
            self.num_experts if layer is None else self.num_shared + layer.ffn.num_active(share, len(layer.neurons))
            for layer in layers
        )

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Return config.json as it is: the order of neurons is all that changes."""
        return config


class _ReorderedTensors(NarrowedTensors):
    """The tensors of a model with some of their rows or columns in another order, all of these in numbers."""

    @property
    def num_rounded(self) -> int:
        """As in the source, and the integers that are numbers here."""
        return self._source.num_rounded + sum(map(self._source.is_quantized, self._kept))

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is given as integers."""
        return name not in self._kept and self._source.is_quantized(name)


def refuse_carving(architecture: Architecture) -> None:
    """Raise UnsupportedModel for a model whose FFNs are no gated ones that the operator for experts computes."""
    a = architecture
    reasons = {
        "its FFNs are experts already": a.experts is not None or a.carving is not None,
        "its layers share streams": a.altup is not None,
        "its FFNs have no gate": not (a.has("gate") or a.has("gate_up")),
        f"its gates are {a.activation}, and onnxruntime's experts have silu": a.activation
        not in ("silu", "quick_gelu"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedModel(f"a {a.family} is not carved into experts, as {reason}; leave --experts out")

"""Dense FFNs carved into experts: neurons are grouped by what they do on a text, and a router says which a token takes.

Shapes: B windows, T tokens of each, E hidden size, I inner width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import Documents, LayerGraph, LayerGraphs, Windows, batches
from skipstone.carve.activations import FfnActivations
from skipstone.carve.errors import ErrorTable, candidates, output_error
from skipstone.carve.routers import Router
from skipstone.carve.shape import ExpertCount, block_size
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan, all_numbers
from skipstone.exporters.families import CarvedFfn
from skipstone.exporters.graph import TARGETS, ModelWeights
from skipstone.exporters.optimum import WrappedPlan
from skipstone.exporters.transforms import CarveExperts, ExpertLayer, refuse_carving

__all__ = ["FoundExperts", "find_experts"]

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[float], None]
NUM_WINDOWS: Final = 24
_MOST_ACTIVATIONS: Final = 1 << 24
_HELD_BACK: Final = 5  # a part of the tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundExperts:
    """What carves the FFNs of a model, and the errors of all ways that were tried."""

    transform: CarveExperts
    table: ErrorTable
    active: float

    def __str__(self) -> str:
        return f"{self.transform}, {100 * self.active:g} % active: {self.table}"


def find_experts(
    plan: ExportPlan | WrappedPlan,
    experts: str,
    documents: Documents,
    *,
    active: float = 0.5,
    seed: int = 0,
    way: str | None = None,
    on_progress: Progress = lambda share: None,
) -> FoundExperts:
    """Return how to carve the FFNs of a model into `experts`, `auto` or a number, with a share of them active.

    Of each layer that way is taken whose output errs least on tokens that were held back; `way` allows one only.
    Raises: ConfigError for a number that does not fit, and too short a text; UnsupportedModel for a model that has no
    such FFNs.
    """
    if not isinstance(plan, ExportPlan):
        raise ConfigError("--via optimum takes the graph as it comes, so it is not carved; leave one out")
    refuse_carving(plan.architecture)
    if not TARGETS[plan.target].has_experts:
        raise ConfigError(f"--target {plan.target} has no operator for experts; leave --target or --experts out")
    count = ExpertCount.parse(experts, plan)
    tensors = all_numbers(plan.architecture, plan.checkpoint.tensors)  # what products read is tapped in floats alone
    plan = replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors))
    windows = Windows.of(plan, documents, num_windows=NUM_WINDOWS, seed=seed)
    with tempfile.TemporaryDirectory(prefix="skipstone-") as folder:
        run = _Run(plan, count, active, way, Path(folder))
        layers, errors = run.carve(windows.calibrate, on_progress)
    transform = CarveExperts(count.total, count.shared, layers, active)
    return FoundExperts(transform=transform, table=ErrorTable(errors), active=active)


class _Run:
    """One pass through the layers, in float32."""

    def __init__(self, plan: ExportPlan, count: ExpertCount, active: float, way: str | None, folder: Path) -> None:
        self._plan, self._count, self._way = plan, count, way
        self._active = active
        self._graphs = LayerGraphs(plan, open_device(), folder)
        self._weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)

    def carve(
        self, tokens: NDArray[np.int64], on_progress: Progress
    ) -> tuple[dict[int, ExpertLayer], tuple[Mapping[str, float], ...]]:
        layers, errors = dict[int, ExpertLayer](), list[Mapping[str, float]]()
        with self._graphs.embedding() as graph:
            states = np.concatenate([graph.embed(tokens[batch]) for batch in batches(tokens)])
        for layer in range(self._graphs.num_layers):
            with self._graphs.layer(layer, tap=_of_ffn) as graph:
                text, states = self._read(layer, graph, states)
            if text is not None:
                layers[layer], found = self._layer(layer, text)
                errors.append(found)
            on_progress((layer + 1) / self._graphs.num_layers)
        return layers, tuple(errors)

    def _read(self, layer: int, graph: LayerGraph, states: Floats) -> tuple[FfnActivations | None, Floats]:
        """Return what the FFN of a layer does, and the states behind the layer."""
        taps, read, behind = graph.taps, list[tuple[Floats, Floats]](), list[Floats]()
        for batch in batches(states):
            inputs, found = graph.inputs_and_states(states[batch])
            behind.append(found)
            if taps:
                x, inner = (inputs[taps[f"layers.{layer}.{name}"]] for name in ("gate_up", "down"))
                read.append((x, inner))
        if not read:
            return None, np.concatenate(behind)
        most = max(1, _MOST_ACTIVATIONS // read[0][1].shape[1])
        x, inner = (np.concatenate(parts) for parts in zip(*read, strict=True))
        step = -(-len(x) // most)
        gate, up = self._gate_and_up(layer)
        down = self._weights.read("down", layer)
        return FfnActivations(x=x[::step], inner=inner[::step], gate=gate, up=up, down=down), np.concatenate(behind)

    def _gate_and_up(self, layer: int) -> tuple[Floats, Floats]:
        if not self._plan.architecture.has("gate_up"):
            return self._weights.read("gate", layer), self._weights.read("up", layer)
        gate, up = np.split(self._weights.read("gate_up", layer), 2)
        return gate, up

    def _layer(self, layer: int, text: FfnActivations) -> tuple[ExpertLayer, Mapping[str, float]]:
        ffn = self._count.ffn(text.inner.shape[1], block_size(self._plan, layer), "linear")
        held_back = len(text.x) // _HELD_BACK
        known, other = text.tokens(slice(held_back, None)), text.tokens(slice(held_back))
        found = dict(candidates(known, ffn, self._way))
        if not found:
            raise ConfigError(f"the layers of this model cannot be carved as {self._way}; ask for fewer experts")
        num_active = ffn.num_active(self._active, len(text.gate))
        errors = {way: output_error(other, router, num_active) for way, router in found.items()}
        return _expert_layer(ffn, found[min(errors, key=lambda way: (errors[way], way))]), errors


def _of_ffn(name: str) -> bool:
    return name.endswith((".gate_up", ".down"))


def _expert_layer(ffn: CarvedFfn, router: Router) -> ExpertLayer:
    neurons = np.concatenate([np.sort(router.clusters.experts, axis=1).ravel(), _shared(router)])
    return ExpertLayer(replace(ffn, router=router.kind), neurons, router.tensors)


def _shared(router: Router) -> NDArray[np.int64]:
    """Return the neurons that are shared, after those that score experts."""
    shared = router.clusters.shared
    first = len(router.clusters.experts) if router.kind == "neuron" else 0
    return np.concatenate([shared[:first], np.sort(shared[first:])])

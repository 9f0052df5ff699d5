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
from skipstone.carve.stand_ins import SparseLayer, SparseStates, mean_kl, open_ffn
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
    """What carves the FFNs of a model, and the errors of all ways that were tried.

    `losses` are the KL at the share that is active, as carved and with what stands in for experts that are left out,
    in nats per token of text that was held back; None where nobody asked for such stand-ins.
    """

    transform: CarveExperts
    table: ErrorTable
    active: float
    losses: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.transform}, {100 * self.active:g} % active: {self.table}{self._distilled}"

    @property
    def _distilled(self) -> str:
        if self.losses is None:
            return ""
        before, after = self.losses
        if after >= before:
            return f"; distilled KL {after:.3f}, which is no gain over {before:.3f}: left as carved"
        return f"; KL {before:.3f}, distilled {after:.3f}"


def find_experts(
    plan: ExportPlan | WrappedPlan,
    experts: str,
    documents: Documents,
    *,
    active: float = 0.5,
    seed: int = 0,
    way: str | None = None,
    distill: bool = False,
    on_progress: Progress = lambda share: None,
) -> FoundExperts:
    """Return how to carve the FFNs of a model into `experts`, `auto` or a number, with a share of them active.

    Of each layer that way is taken whose output errs least on tokens that were held back; `way` allows one only.
    `distill` fits a vector for each expert that stands in where it is left out, and keeps them if the KL falls.
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
        layers, errors, losses = run.carve(windows, on_progress, distill=distill)
    if losses is not None and losses[1] >= losses[0]:
        layers = {number: _without_rests(layer) for number, layer in layers.items()}
    kl = None if losses is None else min(losses)
    transform = CarveExperts(count.total, count.shared, layers, active, kl)
    return FoundExperts(transform=transform, table=ErrorTable(errors), active=active, losses=losses)


class _Run:
    """One pass through the layers, in float32."""

    def __init__(self, plan: ExportPlan, count: ExpertCount, active: float, way: str | None, folder: Path) -> None:
        self._plan, self._count, self._way = plan, count, way
        self._active = active
        self._graphs = LayerGraphs(plan, open_device(), folder)
        self._weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)

    def carve(
        self, windows: Windows, on_progress: Progress, *, distill: bool
    ) -> tuple[dict[int, ExpertLayer], tuple[Mapping[str, float], ...], tuple[float, float] | None]:
        layers, errors = dict[int, ExpertLayer](), list[Mapping[str, float]]()
        states = self._embed(windows.calibrate)
        distillation = _Distillation(self._graphs, states, self._embed(windows.held_back)) if distill else None
        for layer in range(self._graphs.num_layers):
            with self._graphs.layer(layer, tap=_of_ffn) as graph:
                text, states = self._read(layer, graph, states)
            sparse = None
            if text is not None:
                layers[layer], found, sparse = self._layer(layer, text)
                errors.append(found)
            if distillation is not None:
                rests = distillation.layer(layer, sparse)
                layers |= {} if rests is None else {layer: _with_rests(layers[layer], rests)}
            on_progress((layer + 1) / self._graphs.num_layers)
        return layers, tuple(errors), None if distillation is None else distillation.losses()

    def _embed(self, tokens: NDArray[np.int64]) -> Floats:
        with self._graphs.embedding() as graph:
            return np.concatenate([graph.embed(tokens[batch]) for batch in batches(tokens)])

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

    def _layer(self, layer: int, text: FfnActivations) -> tuple[ExpertLayer, Mapping[str, float], SparseLayer]:
        ffn = self._count.ffn(text.inner.shape[1], block_size(self._plan, layer), "linear")
        held_back = len(text.x) // _HELD_BACK
        known, other = text.tokens(slice(held_back, None)), text.tokens(slice(held_back))
        found = dict(candidates(known, ffn, self._way))
        if not found:
            raise ConfigError(f"the layers of this model cannot be carved as {self._way}; ask for fewer experts")
        num_active = ffn.num_active(self._active, len(text.gate))
        errors = {way: output_error(other, router, num_active) for way, router in found.items()}
        router = found[min(errors, key=lambda way: (errors[way], way))]
        scale = self._plan.architecture.residual_scale
        sparse = SparseLayer(router=router, num_active=num_active, matrices=text.tokens(slice(0)), scale=scale)
        return _expert_layer(ffn, router), errors, sparse


class _Distillation:
    """What stands in for experts: learned behind sparse layers, judged on other windows, dense, as carved and so."""

    def __init__(self, graphs: LayerGraphs, fitted: Floats, held_back: Floats) -> None:
        self._graphs, self._num_fitted, self._dense = graphs, len(fitted), held_back
        self._carved = SparseStates(held_back, 0)
        self._distilled = SparseStates(np.concatenate([fitted, held_back]), len(fitted))

    def layer(self, layer: int, sparse: SparseLayer | None) -> Floats | None:
        """Go through a layer, which is not carved where `sparse` is None; return its vectors [E, R]."""
        with self._graphs.layer(layer) as graph:
            self._dense = np.concatenate([graph.states(self._dense[batch]) for batch in batches(self._dense)])
            if sparse is None:
                self._carved.pass_dense(graph)
                self._distilled.pass_dense(graph)
                return None
        with self._graphs.layer(layer, tap=_of_ffn, change=open_ffn) as graph:
            name = f"layers.{layer}"
            rests = self._distilled.fit(graph, name, sparse)
            self._carved.pass_sparse(graph, name, sparse, None)
            self._distilled.pass_sparse(graph, name, sparse, rests)
        return rests

    def losses(self) -> tuple[float, float]:
        """Return the KL as carved, and with what stands in."""
        distilled = self._distilled.states[self._num_fitted :]
        with self._graphs.head() as head:
            before, after = (mean_kl(head, self._dense, found) for found in (self._carved.states, distilled))
        return before, after


def _with_rests(layer: ExpertLayer, rests: Floats) -> ExpertLayer:
    return ExpertLayer(replace(layer.ffn, has_rests=True), layer.neurons, {**layer.router, "expert_rest": rests})


def _without_rests(layer: ExpertLayer) -> ExpertLayer:
    router = {name: tensor for name, tensor in layer.router.items() if name != "expert_rest"}
    return ExpertLayer(replace(layer.ffn, has_rests=False), layer.neurons, router)


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

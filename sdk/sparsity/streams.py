"""The windows of a text on their way through a model's layers: dense, and once for each method and share.

Shapes: W windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph, LayerGraphs, batches
from skipstone.devices import open_device
from skipstone.exporters import ExportPlan
from skipstone.sparsity.layer import Scope, SparseLayer
from skipstone.sparsity.masks import mask_thresholds
from skipstone.sparsity.methods import SparsityMethod
from skipstone.sparsity.products import Product, products_of
from skipstone.sparsity.seen import Given, Seen, dense_rows, masked_counts, no_cuts
from skipstone.sparsity.work import SkippedWork

__all__ = ["Stream", "run_streams"]

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[float], None]
_TRIED: Final = 2  # windows that masks are tried on


@dataclass(slots=True)
class Stream:
    """States [W, T, E] where the run is, of one method that is to save a share of the work; without one, dense."""

    states: Floats
    method: SparsityMethod | None = None
    asked: float = 0.0
    skipped: SkippedWork = field(default_factory=SkippedWork)


def run_streams(
    plan: ExportPlan,
    calibrate: NDArray[np.int64],
    judged: NDArray[np.int64],
    wanted: Sequence[tuple[SparsityMethod, Sequence[float]]],
    *,
    scope: Scope,
    num_dense: int,
    folder: Path,
    on_progress: Progress = lambda share: None,
) -> list[Stream]:
    """Return the streams behind the last layer, the dense one first, for tokens [W, T] to judge by.

    Masks are chosen layer by layer on what the dense model reads in `calibrate` [W, T]. The first `num_dense` tokens
    of each judged window are computed densely, as a prompt is.
    """
    graphs = LayerGraphs(plan, open_device(), folder)
    with graphs.embedding() as embedding:
        first = np.concatenate([embedding.embed(judged[batch]) for batch in batches(judged)])
        seen = np.concatenate([embedding.embed(calibrate[batch]) for batch in batches(calibrate)])
    run = _Run(plan, graphs, scope, num_dense, first, wanted)
    for layer in range(graphs.num_layers):
        seen = run.layer(layer, seen)
        on_progress((layer + 1) / graphs.num_layers)
    return [run.dense, *run.streams]


class _Run:
    """Invariant: all streams have passed the same layers."""

    def __init__(
        self,
        plan: ExportPlan,
        graphs: LayerGraphs,
        scope: Scope,
        num_dense: int,
        states: Floats,
        wanted: Sequence[tuple[SparsityMethod, Sequence[float]]],
    ) -> None:
        self._plan, self._graphs, self._scope, self._num_dense = plan, graphs, scope, num_dense
        self.dense = Stream(states)
        self.streams = [Stream(states, method, share) for method, shares in wanted for share in shares]

    def layer(self, number: int, seen_states: Floats) -> Floats:
        """Run one layer, and return the dense model's states of the calibration behind it."""
        products = products_of(self._plan.architecture, number)
        with self._graphs.layer(number, change=mask_thresholds(products)) as graph:
            seen = Seen.on(graph, products, seen_states)
            nothing = no_cuts(products)
            size = seen_states.shape[1]
            behind = [
                graph.read(["hidden_out"], seen_states[batch], {**nothing, **dense_rows(size, size)})["hidden_out"]
                for batch in batches(seen_states)
            ]
            self._pass(self.dense, graph, products, nothing, masked_counts(products), {})
        for method, streams in groupby(self.streams, lambda stream: stream.method):
            assert method is not None, "only the dense stream has none"
            self._method(number, method, [*streams], products, seen, seen_states[:_TRIED])
        return np.concatenate(behind)

    def _method(
        self,
        number: int,
        method: SparsityMethod,
        streams: Sequence[Stream],
        products: Sequence[Product],
        seen: Seen,
        tried: Floats,
    ) -> None:
        """Choose the masks of one method for a layer, and let its streams pass."""
        with self._graphs.layer(number, change=method.masks(products, self._scope)) as graph:
            layer = SparseLayer(products, self._scope, seen, graph, tried)
            settings = method.settings(layer, [stream.asked for stream in streams])
            counted = method.counted(products, self._scope)
            added = method.added(products, self._scope)
            for stream, given in zip(streams, settings, strict=True):
                self._pass(stream, graph, products, given, counted, added)

    def _pass(
        self,
        stream: Stream,
        graph: LayerGraph,
        products: Sequence[Product],
        given: Given,
        counted: Mapping[str, int],
        added: Mapping[str, int],
    ) -> None:
        """Take a stream through a layer and count what it skips; `counted` are the sizes of what the graph masks."""
        size = stream.states.shape[1]
        inputs = {**given, **dense_rows(size, self._num_dense)}
        outputs, behind = ["hidden_out", *(f"active_{name}" for name in counted)], list[Floats]()
        active = dict.fromkeys(counted, 0.0)
        for batch in batches(stream.states):
            found = graph.read(outputs, stream.states[batch], inputs)
            behind.append(found["hidden_out"])
            for name in counted:
                active[name] += float(found[f"active_{name}"][:, self._num_dense :].sum(dtype=np.float64))
        num_rows = stream.states.shape[0] * (size - self._num_dense)
        stream.states = np.concatenate(behind)
        shares = {name: total / num_rows / counted[name] for name, total in active.items()}
        stream.skipped.add(products, shares, added)

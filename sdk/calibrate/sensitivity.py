"""How much a model minds that a matrix is rounded: KL(original || rounded) in nats per token, matrix by matrix.

One pass through the layers in float32. At each a new stream of hidden states leaves the original: that of a model in
which this layer alone is rounded. All streams go through the layers that follow, and the head tells how far each came.
The matrices of a layer share its KL by how far the states move when each is rounded alone.
Shapes: S streams, B windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.hessians import Doubles, look, through
from skipstone.calibrate.layer_graphs import LayerGraph, LayerGraphs
from skipstone.calibrate.options import BLOCK_SIZES, REFERENCE, Sensitive, StoredOption, measured_options
from skipstone.evaluate import log_softmax
from skipstone.exporters.graph import rounded
from skipstone.quant import QuantizedMatrix, Recipe, TensorRecipe

__all__ = ["measure_sensitivity"]

Floats: TypeAlias = NDArray[np.float32]
NUM_PROBES: Final = 2  # windows that go through as streams
NUM_WINDOWS: Final = 8  # windows for the inputs of products
EVERY: Final = 4  # of so many rows one is judged
_REFERENCE: Final = Recipe(name="reference", rules=(("*", REFERENCE),))


@dataclass(slots=True)
class _Measuring:
    """A rounder that keeps each matrix as REFERENCE rounds it, and measures its options once."""

    means: Mapping[str, Doubles]
    noise: Mapping[str, Mapping[int, Doubles]]
    wanted: Callable[[str], bool]
    kept: dict[str, QuantizedMatrix] = field(default_factory=dict)
    options: dict[str, list[StoredOption]] = field(default_factory=dict)

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        if name not in self.kept:
            self.kept[name] = rounded(name, matrix, REFERENCE)
            if self.wanted(name):
                self.options[name] = measured_options(name, matrix, self.means.get(name), self.noise.get(name))
        return self.kept[name]


def measure_sensitivity(
    graphs: LayerGraphs,
    token_ids: NDArray[np.int64],
    wanted: Callable[[str], bool],
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Sensitive]:
    """Return the matrices that are wanted, with what the model minds. `on_progress` gets the share that is done."""
    run = _Run(graphs, token_ids[:NUM_WINDOWS], wanted)
    run.embedding()
    for layer in range(graphs.num_layers):
        run.layer(layer)
        on_progress((layer + 1) / (graphs.num_layers + 2))
    run.head()
    on_progress(1.0)
    return run.found


class _Run:
    """Invariant: `streams` [S * B, T, E] are where the pass is, the original's first; `owners` are the shares [S - 1]
    of the KL of each other stream, by matrix."""

    def __init__(self, graphs: LayerGraphs, token_ids: NDArray[np.int64], wanted: Callable[[str], bool]) -> None:
        self._graphs, self._token_ids, self._wanted = graphs, token_ids, wanted
        self.found: dict[str, Sensitive] = {}
        self._owners: list[Mapping[str, float]] = []

    def embedding(self) -> None:
        with self._graphs.embedding() as graph:
            self._states = graph.embed(self._token_ids)
        self._streams = self._states[:NUM_PROBES]
        rounder = _Measuring({}, {}, self._wanted)
        with self._graphs.embedding(_REFERENCE, rounder) as graph:
            moved = graph.embed(self._token_ids[:NUM_PROBES])
        self._add_stream(moved, rounder, dict.fromkeys(rounder.options, 1.0))

    def layer(self, layer: int) -> None:
        before = self._streams[:NUM_PROBES]
        with self._graphs.layer(layer, tap=self._wanted) as graph:
            seen = look(graph, self._states, block_sizes=BLOCK_SIZES)
            rounder = _Measuring(seen.means, seen.noise, self._wanted)
            self._states, self._streams = seen.states, through(graph, self._streams)
        with self._graphs.layer(layer, _REFERENCE, rounder) as graph:
            moved = graph.states(before)
        self._add_stream(
            moved, rounder, {name: self._distance(layer, name, rounder, before) for name in rounder.options}
        )

    def _distance(self, layer: int, name: str, rounder: _Measuring, before: Floats) -> float:
        """Return how far the states behind a layer move when one matrix is rounded: the mean of squared shares."""
        alone = Recipe(name="one", rules=(("*", TensorRecipe(bits=32)), (name, REFERENCE)))
        with self._graphs.layer(layer, alone, rounder) as graph:
            states, original = graph.states(before), self._streams[:NUM_PROBES]
        squares = np.square(states - original, dtype=np.float64).sum(axis=-1)
        return float((squares / np.maximum(np.square(original, dtype=np.float64).sum(axis=-1), 1e-30)).mean())

    def _add_stream(self, moved: Floats, rounder: _Measuring, distances: Mapping[str, float]) -> None:
        if not distances:
            return
        total = sum(distances.values())
        self._owners.append({name: distance / total if total else 0.0 for name, distance in distances.items()})
        self._streams = np.concatenate([self._streams, moved])
        self._note(rounder)

    def _note(self, rounder: _Measuring) -> None:
        for name, options in rounder.options.items():
            self.found[name] = Sensitive(0.0, options)

    def head(self) -> None:
        rows = [stream[:, ::EVERY] for stream in np.split(self._streams, len(self._owners) + 1)]
        with self._graphs.head(tap=self._wanted) as graph:
            seen = look(graph, self._states, block_sizes=BLOCK_SIZES, goes_on=False)
            rounder = _Measuring(seen.means, seen.noise, self._wanted)
        with self._graphs.head() as graph:
            wanted = log_softmax(graph.logits(rows[0]))
            for owners, stream in zip(self._owners, rows[1:], strict=True):
                kl = _kl(wanted, graph, stream)
                for name, share in owners.items():
                    self.found[name].kl += share * kl
        embedding = {name: self.found[name] for name in self.found if name == "head"}
        with self._graphs.head(_REFERENCE, rounder) as graph:
            kl = _kl(wanted, graph, rows[0])
        for name, options in rounder.options.items():
            self.found[name] = _both(Sensitive(kl, options), embedding.get(name))


def _kl(wanted: NDArray[np.float64], graph: LayerGraph, states: Floats) -> float:
    found = log_softmax(graph.logits(states))
    return float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())


def _both(head: Sensitive, embedding: Sensitive | None) -> Sensitive:
    """Return what a model minds of a matrix that is its embedding too: the sum of both."""
    if embedding is None:
        return head
    total = max(head.kl + embedding.kl, 1e-30)
    options = [
        StoredOption(
            rule=one.rule, num_bytes=one.num_bytes, error=(head.kl * one.error + embedding.kl * other.error) / total
        )
        for one, other in zip(head.options, embedding.options, strict=True)
    ]
    return Sensitive(total, options)

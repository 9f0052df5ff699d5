"""How much a model minds that a matrix is rounded: KL(original || rounded) in nats per token, matrix by matrix.

One pass through the layers in float32. At each a new stream of hidden states leaves the original: that of a model in
which this layer alone is rounded. All streams go through the layers that follow, and the head tells how far each came.
The matrices of a layer share its KL by how far the states move when each is rounded alone.
Shapes: S streams, B windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.hessians import Doubles, look, through
from skipstone.calibrate.layer_graphs import LayerGraph, LayerGraphs
from skipstone.calibrate.options import BLOCK_SIZES, REFERENCE, Sensitive, StoredOption, measured_options
from skipstone.calibrate.sensitivity_place import Place
from skipstone.calibrate.work_folder import WorkFolder, chained
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
    folder: WorkFolder,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Sensitive]:
    """Return the matrices that are wanted, with what the model minds. `on_progress` gets the share that is done.

    What an interrupted run has measured is taken from `folder`, which must be for the same recipe and tokens.
    """
    run = _Run(graphs, token_ids[:NUM_WINDOWS], wanted, folder)
    run.embedding()
    for layer in range(graphs.num_layers):
        run.layer(layer)
        on_progress((layer + 1) / (graphs.num_layers + 2))
    found = run.head()
    on_progress(1.0)
    return found


class _Run:
    """One pass. Invariant: `_key` is that of the last step, and `_place` where it led, None where only the folder
    has that."""

    def __init__(
        self, graphs: LayerGraphs, token_ids: NDArray[np.int64], wanted: Callable[[str], bool], folder: WorkFolder
    ) -> None:
        self._graphs, self._token_ids, self._wanted, self._folder = graphs, token_ids, wanted, folder
        self._key = b"sensitivity"
        self._place: Place | None = None

    def embedding(self) -> None:
        with self._graphs.embedding() as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return
            states = graph.embed(self._token_ids)
        rounder = _Measuring({}, {}, self._wanted)
        with self._graphs.embedding(_REFERENCE, rounder) as graph:
            moved = graph.embed(self._token_ids[:NUM_PROBES])
        place = Place(states, states[:NUM_PROBES])
        self._keep(step, _with_stream(place, moved, rounder, dict.fromkeys(rounder.options, 1.0)))

    def layer(self, layer: int) -> None:
        with self._graphs.layer(layer, tap=self._wanted) as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return
            place = self._given()
            seen = look(graph, place.states, block_sizes=BLOCK_SIZES)
            streams = through(graph, place.streams)
        rounder, before = _Measuring(seen.means, seen.noise, self._wanted), place.streams[:NUM_PROBES]
        with self._graphs.layer(layer, _REFERENCE, rounder) as graph:
            moved = graph.states(before)
        original = streams[:NUM_PROBES]
        distances = {name: self._distance(layer, name, rounder, before, original) for name in rounder.options}
        place = replace(place, states=seen.states, streams=streams)
        self._keep(step, _with_stream(place, moved, rounder, distances))

    def _distance(self, layer: int, name: str, rounder: _Measuring, before: Floats, original: Floats) -> float:
        """Return how far the states behind a layer move when one matrix is rounded: the mean of squared shares."""
        alone = Recipe(name="one", rules=(("*", TensorRecipe(bits=32)), (name, REFERENCE)))
        with self._graphs.layer(layer, alone, rounder) as graph:
            states = graph.states(before)
        squares = np.square(states - original, dtype=np.float64).sum(axis=-1)
        return float((squares / np.maximum(np.square(original, dtype=np.float64).sum(axis=-1), 1e-30)).mean())

    def head(self) -> dict[str, Sensitive]:
        """Return what all matrices cost."""
        with self._graphs.head(tap=self._wanted) as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return self._given().found
            place = self._given()
            seen = look(graph, place.states, block_sizes=BLOCK_SIZES, goes_on=False)
        rows = [stream[:, ::EVERY] for stream in np.split(place.streams, len(place.owners) + 1)]
        rounder, found = _Measuring(seen.means, seen.noise, self._wanted), place.found
        with self._graphs.head() as graph:
            wanted = log_softmax(graph.logits(rows[0]))
            for owners, stream in zip(place.owners, rows[1:], strict=True):
                kl = _kl(wanted, graph, stream)
                for name, share in owners.items():
                    found[name].kl += share * kl
        embedding = {name: found[name] for name in found if name == "head"}
        with self._graphs.head(_REFERENCE, rounder) as graph:
            kl = _kl(wanted, graph, rows[0])
        for name, options in rounder.options.items():
            found[name] = _both(Sensitive(kl, options), embedding.get(name))
        self._keep(step, place)
        return found

    def _is_done(self, step: bytes) -> bool:
        """Whether an earlier run has done a step; then go there."""
        if not self._folder.has(step):
            return False
        self._key, self._place = step, None
        return True

    def _given(self) -> Place:
        """Return where the last step led."""
        if self._place is None:
            self._place = Place.of(self._folder.states(self._key))
        return self._place

    def _keep(self, step: bytes, place: Place) -> None:
        """Go to a step that is done now."""
        self._folder.save(step, {}, place.arrays())
        self._folder.forget_states(self._key)
        self._key, self._place = step, place


def _with_stream(place: Place, moved: Floats, rounder: _Measuring, distances: Mapping[str, float]) -> Place:
    """Return a place with the stream that leaves the original there, if a matrix was rounded."""
    if not distances:
        return place
    total = sum(distances.values())
    owners = {name: distance / total if total else 0.0 for name, distance in distances.items()}
    found = {name: Sensitive(0.0, options) for name, options in rounder.options.items()}
    return Place(place.states, np.concatenate([place.streams, moved]), [*place.owners, owners], place.found | found)


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

"""A calibrated export: the model is rounded layer by layer, each by what the rounded layers before it give on a text.

Shapes: B windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.hessians import batches, hessians, through
from skipstone.calibrate.layer_graphs import LayerGraphs
from skipstone.calibrate.rounders import SolvedRounder, SolvingRounder
from skipstone.calibrate.scales import with_scales
from skipstone.calibrate.windows import Windows
from skipstone.calibrate.work_folder import WorkFolder, chained, run_key
from skipstone.devices import open_device
from skipstone.exporters import ExportPlan
from skipstone.quant import QuantizedMatrix

__all__ = ["Solved", "solve"]

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[float], None]
_OF_SCALES: Final = 0.3  # of the time


@dataclass(slots=True)
class _Streams:
    """Hidden states [B, T, E] where the run is: of the rounded model to calibrate with, of the original to judge by."""

    rounded: Floats
    original: Floats

    def arrays(self) -> Mapping[str, Floats]:
        return {"rounded": self.rounded, "original": self.original}


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What a calibration found: the matrices, by way of a rounder, and the original's states before the final norm.

    They are those of `plan`, which has the scales that were folded in.
    `states` are those of the windows held back, [B, T, E]. `num_solved` is how many matrices know their inputs.
    """

    plan: ExportPlan
    rounder: SolvedRounder
    states: Floats
    num_solved: int


def solve(
    plan: ExportPlan, windows: Windows, *, on_progress: Progress = lambda share: None
) -> tuple[Solved, WorkFolder]:
    """Return the matrices of a plan, solved for a text, and the folder that holds them until they are written.

    What an interrupted run has solved is taken from there. `on_progress` gets the share that is done.
    """
    key = run_key(plan, windows.calibrate, windows.held_back)
    folder = WorkFolder.of_run(key)
    graphs = LayerGraphs(plan, open_device(), folder.path)
    scaled = with_scales(plan, graphs, windows.calibrate, lambda share: on_progress(_OF_SCALES * share))
    run = _Run(scaled, windows, folder, key)
    return run.solve(lambda share: on_progress(_OF_SCALES + (1 - _OF_SCALES) * share)), folder


class _Run:
    """One pass through the layers.

    Invariant: `key` is that of the last step; `_streams` are what it gave, None where only the folder has them.
    """

    def __init__(self, plan: ExportPlan, windows: Windows, folder: WorkFolder, key: bytes) -> None:
        self._plan, self._windows, self._folder, self._key = plan, windows, folder, key
        self._graphs = LayerGraphs(plan, open_device(), folder.path)
        self._streams: _Streams | None = None
        self._steps: dict[str, bytes] = {}

    def solve(self, on_progress: Progress) -> Solved:
        num_layers = self._graphs.num_layers
        self._embed()
        for layer in range(num_layers):
            self._layer(layer)
            on_progress((layer + 1) / (num_layers + 1))
        self._head()
        on_progress(1.0)
        rounder = SolvedRounder(self._folder, self._steps)
        return Solved(plan=self._plan, rounder=rounder, states=self._given().original, num_solved=len(self._steps))

    def _embed(self) -> None:
        """Begin with the embeddings; a table that is the head's too is rounded as it is, since that comes last."""
        with self._graphs.embedding() as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return
            original = graph.embed(self._windows.held_back)
        with self._graphs.embedding(self._plan.recipe) as graph:
            tokens = self._windows.calibrate
            states = np.concatenate([graph.embed(tokens[batch]) for batch in batches(tokens)])
        self._keep(step, {}, _Streams(states, original))

    def _layer(self, layer: int) -> None:
        with self._graphs.layer(layer, tap=self._reads_text) as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return
            given = self._given()
            rounder = SolvingRounder(hessians(graph, given.rounded))
            original = through(graph, given.original)
        with self._graphs.layer(layer, self._plan.recipe, rounder) as graph:
            self._keep(step, rounder.solved, _Streams(through(graph, given.rounded), original))

    def _head(self) -> None:
        with self._graphs.head(tap=self._reads_text) as graph:
            step = chained(self._key, graph.digest())
            if self._is_done(step):
                return
            given = self._given()
            rounder = SolvingRounder(hessians(graph, given.rounded) if graph.taps else {})
        with self._graphs.head(self._plan.recipe, rounder):
            self._keep(step, rounder.solved, given)

    def _reads_text(self, name: str) -> bool:
        return self._plan.recipe.for_tensor(name).reads_text

    def _is_done(self, step: bytes) -> bool:
        """Whether an earlier run has done a step; then go there."""
        if not self._folder.has(step):
            return False
        self._key, self._streams = step, None
        self._steps |= dict.fromkeys(self._folder.matrices(step), step)
        return True

    def _given(self) -> _Streams:
        """Return what the last step gave."""
        if self._streams is None:
            self._streams = _Streams(**self._folder.states(self._key))
        return self._streams

    def _keep(self, step: bytes, matrices: Mapping[str, QuantizedMatrix], streams: _Streams) -> None:
        """Go to a step that is done now."""
        self._folder.save(step, matrices, streams.arrays())
        self._folder.forget_states(self._key)
        self._key, self._streams = step, streams
        self._steps |= dict.fromkeys(matrices, step)

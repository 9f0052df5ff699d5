"""FFN channels to leave out: found by forward passes of sub-models that lack some, all layers at once.

Shapes: S sub-models, W windows, T tokens of each, E hidden size, I inner width of a layer, G groups of channels.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph, LayerGraphs, Windows, batches
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import ModelWeights
from skipstone.exporters.transforms import NarrowFfn, Transform, refuse_narrow
from skipstone.prune.amount import Amount
from skipstone.prune.channels import ChannelGroups
from skipstone.prune.ffn_masks import states_behind
from skipstone.prune.known_losses import KnownLosses
from skipstone.prune.reader import Loss
from skipstone.prune.refit import narrowed_plan, refitted
from skipstone.prune.regression import fitted_costs
from skipstone.prune.state_losses import StateLosses

__all__ = ["find_widths"]

Floats: TypeAlias = NDArray[np.float32]
Alive: TypeAlias = Sequence[NDArray[np.bool_]]
Progress: TypeAlias = Callable[[float], None]
NUM_WINDOWS: Final = 8  # that sub-models read, one each
NUM_PAIRS: Final = 24  # of sub-models, in a round
NUM_FITTED: Final = 24  # windows for the fit of what is left
_A_ROUND: Final = 10  # percent of the channels that go in a round at most


def find_widths(
    plan: ExportPlan, amount: Amount, windows: Windows, seed: int, on_progress: Progress
) -> tuple[Transform, Loss]:
    """Return what leaves out the FFN channels that cost least, and the cost.

    In rounds: the groups of channels that add least are candidates; pairs of sub-models lack one half of them each;
    a regression of their losses says which candidates go. What is left is fitted to make up for them.
    Source: Bonsai (Dery et al., 2024).
    """
    refuse_narrow(plan.architecture)
    with tempfile.TemporaryDirectory(prefix="skipstone-") as folder:
        search = _Search(plan, Path(folder), windows, seed)
        return search.run(amount, on_progress)


class _Search:
    """Invariant: `_alive` says for each layer which channels are there, [I]."""

    def __init__(self, plan: ExportPlan, folder: Path, windows: Windows, seed: int) -> None:
        self._plan, self._folder, self._windows, self._seed = plan, folder, windows, seed
        self._graphs = LayerGraphs(plan, open_device(), folder)
        self._tokens = windows.calibrate[:NUM_WINDOWS]
        self._weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
        self._widths = [
            width if plan.architecture.has_ffn(layer) else 0 for layer, width in enumerate(plan.architecture.ffn_widths)
        ]
        self._alive: Alive = [np.ones(width, bool) for width in self._widths]

    def run(self, amount: Amount, on_progress: Progress) -> tuple[Transform, Loss]:
        total = max(1, round(sum(self._widths) * amount.number / 100))
        num_rounds = math.ceil(amount.number / _A_ROUND)
        steps = _Steps(2 * num_rounds + 3, on_progress)
        known: KnownLosses | None = None
        original: Floats | None = None
        for number in range(num_rounds):
            num_channels = total * (number + 1) // num_rounds - self._num_absent()
            if num_channels <= 0:  # whole groups of the rounds before were enough
                continue
            energies, states, digest = self._look(steps.next())
            original = states if original is None else original
            known = known or KnownLosses(digest, self._windows, amount.text, self._seed)
            self._alive = self._round(number, num_channels, energies, (original, states), known, steps.next())
        channels = {
            layer: tuple(np.flatnonzero(there).tolist()) for layer, there in enumerate(self._alive) if not there.all()
        }
        narrow = refitted(
            self._plan, NarrowFfn(channels), self._windows.calibrate[:NUM_FITTED], self._folder, steps.next()
        )
        loss = self._loss(narrow, steps)
        if known is not None:
            known.forget()
        return narrow, loss

    def _num_absent(self) -> int:
        return sum(self._widths) - sum(int(there.sum()) for there in self._alive)

    def _look(self, on_progress: Progress) -> tuple[list[NDArray[np.float64]], Floats, bytes]:
        """Return the energy that each channel adds, as a share of its layer's stream, the last states, and a hash."""
        energies, digests = list[NDArray[np.float64]](), list[bytes]()

        def look(layer: int, graph: LayerGraph, states: Floats, given: Mapping[str, Floats]) -> None:
            digests.append(graph.digest())
            energies.append(self._energies(layer, graph, states, given))

        masks = [np.tile(there.astype(np.float32), (len(self._tokens), 1)) for there in self._alive]
        states = states_behind(self._graphs, self._tokens, masks, look, tap=True, on_progress=on_progress)
        return energies, states, b"".join(digests)

    def _energies(
        self, layer: int, graph: LayerGraph, states: Floats, given: Mapping[str, Floats]
    ) -> NDArray[np.float64]:
        if not graph.taps:
            return np.zeros(0)
        squares = np.zeros(self._widths[layer])
        for batch in batches(states):
            for x in graph.inputs(states[batch], {name: mask[batch] for name, mask in given.items()}).values():
                squares += np.square(x, dtype=np.float64).sum(axis=0)
        down = self._weights.read("down", layer)
        stream = max(float(np.square(states, dtype=np.float64).sum()), np.finfo(np.float64).tiny)
        shares: NDArray[np.float64] = squares * np.square(down, dtype=np.float64).sum(axis=0) / stream
        return shares

    def _round(
        self,
        number: int,
        num_channels: int,
        energies: Sequence[NDArray[np.float64]],
        states: tuple[Floats, Floats],
        known: KnownLosses,
        on_progress: Progress,
    ) -> Alive:
        """Return which channels are there after a round; `states` are the original's, and those of what is there."""
        groups = ChannelGroups.of(energies, self._alive)
        if sum(map(len, groups.members)) < num_channels:
            raise ConfigError(f"--prune: of FFNs with {min(self._widths)} channels not so many can be left out")
        candidates = groups.weakest(2 * num_channels)
        absent = _halves(len(candidates), np.random.default_rng([self._seed, number]))
        places = np.arange(len(absent)) // 2 % len(self._tokens)
        losses = known.losses(number, lambda: self._losses(groups, candidates, absent, places, states, on_progress))
        costs = fitted_costs(absent, groups.guesses[candidates], groups.layers[candidates], losses)
        by_group = np.full(len(groups.members), np.inf)
        by_group[candidates] = costs
        return groups.without(self._alive, groups.cheapest(by_group, num_channels))

    def _losses(
        self,
        groups: ChannelGroups,
        candidates: NDArray[np.int64],
        absent: NDArray[np.bool_],
        places: NDArray[np.int64],
        states: tuple[Floats, Floats],
        on_progress: Progress,
    ) -> NDArray[np.float64]:
        """Return what sub-models [S], which read the windows `places`, lose more than all that is there."""
        alive = [groups.without(self._alive, candidates[row]) for row in absent]
        masks = [np.stack([there[layer] for there in alive]).astype(np.float32) for layer in range(len(self._alive))]
        behind = states_behind(self._graphs, self._tokens[places], masks, on_progress=on_progress)
        original, current = states
        with self._graphs.head() as head:
            judge = StateLosses(head, original)
            before = judge.losses(current, np.arange(len(current)))
            return judge.losses(behind, places) - before[places]

    def _loss(self, narrow: NarrowFfn, steps: _Steps) -> Loss:
        """Return what a narrowing costs on the windows held back."""
        tokens, states = self._windows.held_back, list[Floats]()
        for plan in (self._plan, narrowed_plan(self._plan, narrow)):
            masks = [np.ones((len(tokens), width), np.float32) for width in plan.architecture.ffn_widths]
            graphs = LayerGraphs(plan, open_device(), self._folder)
            states.append(states_behind(graphs, tokens, masks, on_progress=steps.next()))
        with self._graphs.head() as head:
            return StateLosses(head, states[0]).loss(states[1], tokens)


class _Steps:
    """Passes that take equally long, as shares of the whole."""

    def __init__(self, count: int, on_progress: Progress) -> None:
        self._count, self._number, self._on_progress = count, -1, on_progress

    def next(self) -> Progress:
        self._number += 1
        number = self._number
        return lambda share: self._on_progress((number + share) / self._count)


def _halves(count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return pairs of rows [2 * pairs, count]: any half of the places, then the other half."""
    rows = []
    for _ in range(NUM_PAIRS):
        half = np.zeros(count, bool)
        half[generator.permutation(count)[: count // 2]] = True
        rows += [half, ~half]
    return np.stack(rows)

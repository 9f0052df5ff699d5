"""How many experts of each layer are active at a share of all: first by each layer alone, then all together.

What a layer loses with fewer experts is measured while all others have theirs. The sum of these losses, the least for
a share, is where an evolution begins that measures layers together: it moves experts from one layer to another.

Sources: TEAL (Liu et al., 2024) for greedy shares by layer; EvoPress (Sieberling et al., 2024) for the evolution, whose
mutations keep the budget and whose survivors are read along more text.

Shapes: L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

import numpy as np

from skipstone.activate.reader import Counts
from skipstone.quant import Option, allot

__all__ = ["Losses", "Search"]

Losses: TypeAlias = Callable[[Counts, int], float]
"""(counts, number of windows) -> KL in nats per token."""
NUM_POINTS: Final = 4  # numbers of experts of each layer that are measured, all of them included
OFFSPRING: Final = 6
SURVIVORS: Final = 2  # that are read along all windows
MOST_MOVES: Final = 3


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer loses with each number of experts from the least on, between measured ones on a line."""

    least: int
    losses: tuple[float, ...]

    def menu(self) -> list[Option]:
        return [Option(float(self.least + number), loss) for number, loss in enumerate(self.losses)]


class Search:
    """Finds counts for a share, between `least` and `most` experts by layer, by their `losses` on windows of a text.

    `few` windows measure layers alone and offspring, all `num_windows` what is kept. The same arguments give the same.
    """

    def __init__(
        self,
        least: Counts,
        most: Counts,
        losses: Losses,
        *,
        num_windows: int,
        few: int = 1,
        seed: int = 0,
        generations: int = 3,
        num_levels: int = 1,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """`on_progress` gets the share that is done of a search for `num_levels` levels."""
        self._least, self._most, self._losses = least, most, losses
        self._num_windows, self._few, self._generations = num_windows, min(few, num_windows), generations
        self._random, self._on_progress = Random(seed), on_progress
        self._layers: list[_Layer] = []
        self._num_steps, self._done = len(most) + num_levels * (1 + generations), 0

    def _on_step(self) -> None:
        self._done += 1
        self._on_progress(min(self._done / self._num_steps, 1.0))

    @property
    def least_share(self) -> float:
        return sum(self._least) / sum(self._most)

    def measure_layers(self) -> None:
        """Measure each layer alone."""
        self._layers = [self._alone(layer) for layer in range(len(self._most))]

    def _alone(self, layer: int) -> _Layer:
        least, most = self._least[layer], self._most[layer]
        points = sorted({round(float(point)) for point in np.linspace(least, most, NUM_POINTS)})
        losses = [0.0 if point == most else self._loss_alone(layer, point) for point in points]
        # More experts lose no more: what says so is noise of a short text.
        falling = np.minimum.accumulate(losses)
        self._on_step()
        return _Layer(least, tuple(np.interp(range(least, most + 1), points, falling).tolist()))

    def _loss_alone(self, layer: int, count: int) -> float:
        counts = (*self._most[:layer], count, *self._most[layer + 1 :])
        return max(self._losses(counts, self._few), 0.0)

    def first(self, share: float) -> Counts:
        """Return the best counts of a share to begin with, by few windows: by single layers, even ones, or between.

        Losses of layers do not always add up: on a small model even numbers may lose less together.
        """
        alone, even = self.alone(share), self.even(share)
        middle = [(one + other) // 2 for one, other in zip(alone, even, strict=True)]
        between = _grown(middle, sum(even), self._most)
        return min(dict.fromkeys((alone, even, between)), key=lambda counts: self._losses(counts, self._few))

    def even(self, share: float) -> Counts:
        """Return counts of at most a share that lie equally far between the least and all in each layer."""
        total = max(sum(self._least), int(share * sum(self._most) + 1e-6))
        place = (total - sum(self._least)) / max(sum(self._most) - sum(self._least), 1)
        pairs = zip(self._least, self._most, strict=True)
        counts = [low + int(place * (high - low) + 1e-9) for low, high in pairs]
        return _grown(counts, total, self._most)

    def alone(self, share: float) -> Counts:
        """Return the counts of at most a share whose layers lose least, each alone; the least where none are so few."""
        chosen = allot([layer.menu() for layer in self._layers], share * sum(self._most) + 1e-6)
        if chosen is None:
            return self._least
        return tuple(low + number for low, number in zip(self._least, chosen, strict=True))

    def loss(self, counts: Counts) -> float:
        """Return the KL along all windows."""
        return self._losses(counts, self._num_windows)

    def refined(self, counts: Counts) -> tuple[Counts, float]:
        """Return counts of as many experts in all with a KL as low or lower, and that KL."""
        best, best_loss = counts, self.loss(counts)
        self._on_step()
        for _ in range(self._generations):
            offspring = list(dict.fromkeys(self._mutant(best) for _ in range(OFFSPRING)))
            offspring = [mutant for mutant in offspring if mutant != best]
            for mutant in sorted(offspring, key=lambda one: self._losses(one, self._few))[:SURVIVORS]:
                loss = self.loss(mutant)
                if loss < best_loss:
                    best, best_loss = mutant, loss
            self._on_step()
        return best, best_loss

    def _mutant(self, counts: Counts) -> Counts:
        """Return counts in which some layers gave an expert to others."""
        mutant = [*counts]
        for _ in range(min(self._random.randint(1, MOST_MOVES), self._random.randint(1, MOST_MOVES))):
            givers = [layer for layer, count in enumerate(mutant) if count > self._least[layer]]
            takers = [layer for layer, count in enumerate(mutant) if count < self._most[layer]]
            if givers and takers:
                mutant[self._random.choice(givers)] -= 1
                mutant[self._random.choice(takers)] += 1
        return tuple(mutant)

    def within(self, kl: float) -> Counts:
        """Return the counts of the smallest share found whose KL is at most `kl`, before any refinement; or all."""
        low, high, best = sum(self._least), sum(self._most), self._most
        while low < high:
            total = (low + high) // 2
            counts = self.first(total / sum(self._most))
            if self.loss(counts) <= kl:
                best, high = counts, total
            else:
                low = total + 1
        return best


def _grown(counts: list[int], total: int, most: Counts) -> Counts:
    """Return counts with one expert more in the first layers that have room, again and again, up to a total."""
    grown = [*counts]
    while (missing := total - sum(grown)) > 0:
        room = [layer for layer, count in enumerate(grown) if count < most[layer]]
        for layer in room[:missing]:
            grown[layer] += 1
    return tuple(grown)

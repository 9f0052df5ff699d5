"""Which few of many blocks to leave out: an evolutionary search, whatever a block is and however a choice is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

__all__ = ["Blocks", "Judge", "SearchPlan", "search"]

Blocks: TypeAlias = tuple[int, ...]
"""Blocks that are left out, ascending."""
Judge: TypeAlias = Callable[[SequenceOf[Blocks], bool], list[float]]
"""Returns the loss of each choice: roughly, or closely where the flag says so."""

MOST_GENERATIONS: Final = 16
OFFSPRING: Final = 8
SURVIVORS: Final = 2
MOST_SWAPS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How `count` of some `blocks` are searched. Equal seeds and equal losses find equal blocks."""

    blocks: Blocks
    count: int
    seed: int = 0

    @property
    def num_generations(self) -> int:
        """How often a choice has offspring."""
        changes = self.count * (len(self.blocks) - self.count)
        return min(MOST_GENERATIONS, math.ceil(changes / 1.5))

    @property
    def num_judged(self) -> int:
        """How many choices are judged at most, of which some are judged twice."""
        return len(self.blocks) + self.num_generations * (OFFSPRING + SURVIVORS + 1)


def search(plan: SearchPlan, judge: Judge) -> Blocks:
    """Return the blocks that cost least: those that cost least alone, then what swaps of some make of them.

    Of the offspring of a choice, judged roughly, the two best are judged closely beside it; the best has offspring.
    Source: EvoPress (Sieberling et al., 2024), (1 + lambda) with elitism and selection in stages.
    """
    alone = judge([(block,) for block in plan.blocks], False)
    order = sorted(range(len(plan.blocks)), key=lambda number: alone[number])
    parent: Blocks = tuple(sorted(plan.blocks[number] for number in order[: plan.count]))
    if plan.count == 1:
        return parent
    for generation in range(plan.num_generations):
        generator = np.random.default_rng([plan.seed, generation])
        offspring = sorted({_mutated(parent, plan.blocks, generator) for _ in range(OFFSPRING)} - {parent})
        losses = judge(offspring, False)
        best = sorted(range(len(offspring)), key=lambda number: losses[number])[:SURVIVORS]
        candidates = [parent, *(offspring[number] for number in best)]
        closely = judge(candidates, True)
        parent = candidates[int(np.argmin(closely))]
    return parent


def _mutated(parent: Blocks, blocks: Blocks, generator: np.random.Generator) -> Blocks:
    """Return a choice with one to three blocks swapped for others, few more often than many."""
    inside = [block for block in blocks if block not in parent]
    most = min(MOST_SWAPS, len(parent), len(inside))
    if most == 0:
        return parent
    swaps = int(generator.integers(1, most, size=2, endpoint=True).min())
    gone = generator.choice(parent, swaps, replace=False)
    come = generator.choice(inside, swaps, replace=False)
    return tuple(sorted(({*parent} - {*gone.tolist()}) | {*come.tolist()}))

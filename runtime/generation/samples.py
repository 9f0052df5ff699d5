"""Several texts that follow one prompt, and what they are together: the best, the majority, how many solve a task.

Shapes: n texts, c of them solved, k that one may try.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import SupportsFloat

from skipstone.errors import ConfigError
from skipstone.runtime.generation.generation import Generation

__all__ = ["Coverage", "Samples", "Vote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The answer that most texts give, the first of the texts that give it, and how many give each answer.

    Of answers given equally often the first one wins; `answer` and `generation` are None when no text has one.
    """

    answer: Hashable | None
    generation: Generation | None
    counts: dict[Hashable, int]
    num_texts: int

    @property
    def share(self) -> float:
        """Which part of all texts gives the answer."""
        return self.counts[self.answer] / self.num_texts if self.generation else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which texts solve a task, in the order in which they were made."""

    generations: tuple[Generation, ...]
    is_solved: tuple[bool, ...]

    @property
    def solved(self) -> tuple[Generation, ...]:
        """The texts that solve it; `stats.seed` says by which seed each was made."""
        return tuple(text for text, solved in zip(self.generations, self.is_solved, strict=True) if solved)

    def at(self, num_tries: int) -> float:
        """Return the chance that at least one of k texts solves it, estimated without bias from the n that there are.

        It is the share of all choices of k among them that hold one. Source: pass@k (Chen et al., 2021).
        Raises: ConfigError unless k is 1 to n.
        """
        num_texts, num_failed = len(self.is_solved), self.is_solved.count(False)
        if not 1 <= num_tries <= num_texts:
            raise ConfigError(f"{num_texts} texts tell about 1 to {num_texts} tries, got {num_tries}")
        return 1 - math.comb(num_failed, num_tries) / math.comb(num_texts, num_tries)


class Samples(Iterator[Generation]):
    """Texts that follow one prompt, made as they are asked for; `close` cancels those that were not begun.

    `best`, `vote` and `coverage` make all that are left and judge them all, those that were yielded too.
    """

    def __init__(self, generations: Iterator[Generation]) -> None:
        self._generations = generations
        self._made: list[Generation] = []

    def __iter__(self) -> Samples:
        return self

    def __next__(self) -> Generation:
        self._made.append(next(self._generations))
        return self._made[-1]

    def close(self) -> None:
        """Make no more texts."""
        self._generations = iter(())

    def best(self, score: Callable[[Generation], float]) -> Generation:
        """Return the text with the highest score, of equal ones the first: best of n.

        Raises: ConfigError for a score that is no number.
        """
        generations = self._all()
        scores = [score(generation) for generation in generations]
        for value in scores:
            if not isinstance(value, SupportsFloat) or isinstance(value, str) or math.isnan(value):
                raise ConfigError(f"the score of a text is no number but {value!r}; return one for each")
        return generations[max(range(len(scores)), key=lambda number: scores[number])]

    def vote(self, answer: Callable[[Generation], Hashable | None]) -> Vote:
        """Return the answer that most texts give; None is no answer. Source: self-consistency (Wang et al., 2022)."""
        generations = self._all()
        answers = [answer(generation) for generation in generations]
        counts = Counter(given for given in answers if given is not None)
        if not counts:
            return Vote(answer=None, generation=None, counts={}, num_texts=len(generations))
        ((winner, _),) = counts.most_common(1)
        return Vote(
            answer=winner,
            generation=generations[answers.index(winner)],
            counts=dict(counts.most_common()),
            num_texts=len(generations),
        )

    def coverage(self, is_solved: Callable[[Generation], bool]) -> Coverage:
        """Return which texts solve a task, and so how many tries it takes: repeated sampling (Brown et al., 2024)."""
        generations = self._all()
        return Coverage(
            generations=tuple(generations), is_solved=tuple(bool(is_solved(generation)) for generation in generations)
        )

    def _all(self) -> list[Generation]:
        """Make the texts that are left and return all. Raises: ConfigError when there are none."""
        for _ in self:
            pass
        generations = list(self._made)
        if not generations:
            raise ConfigError("there is no text to judge; ask for new samples")
        return generations

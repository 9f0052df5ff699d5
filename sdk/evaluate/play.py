"""Greedy texts of plain decoding and of settings beside it, made in turn, and their speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

import numpy as np

from skipstone.runtime.decoding import Step

__all__ = ["Played", "play"]

Writer: TypeAlias = Callable[[SequenceOf[int]], Iterator[Step]]
"""Prompt -> the loop over the text behind it."""


@dataclass(slots=True)
class Played:
    """The texts of one setting, and their seconds: with the prompt, or from the first token on."""

    from_first_token: bool
    texts: list[list[int]] = field(default_factory=list)
    num_timed: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """The speed of the tokens that are timed."""
        return self.num_timed / self.seconds

    def add(self, steps: Iterator[Step]) -> None:
        """Make one text."""
        first = [*next(steps).token_ids] if self.from_first_token else []
        start = perf_counter()
        timed = [token_id for step in steps for token_id in step.token_ids]
        self.seconds += perf_counter() - start
        self.num_timed += len(timed)
        self.texts.append(first + timed)

    def exact_match(self, plain: Played) -> float:
        """Return the share of texts that are plain decoding's."""
        return float(np.mean([ours == theirs for ours, theirs in zip(self.texts, plain.texts, strict=True)]))


def play(
    writers: SequenceOf[Writer],
    prompts: SequenceOf[SequenceOf[int]],
    *,
    from_first_token: bool = False,
    on_text: Callable[[], None] = lambda: None,
) -> list[Played]:
    """Return the texts of each writer, made in turn for each prompt.

    Those of the first prompt are made once before, uncounted: calls are bound when they first run.
    """
    warm, played = ([Played(from_first_token) for _ in writers] for _ in range(2))
    for prompt, kept in ((prompts[0], warm), *((prompt, played) for prompt in prompts)):
        for write, texts in zip(writers, kept, strict=True):
            texts.add(write(prompt))
            on_text()
    return played

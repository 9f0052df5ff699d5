"""Which stages drafts may leave out: tried along a text, one more at a time, as long as drafts promise more.

Source: Draft & Verify (Zhang et al., 2024), whole layers in place of attention and FFN apart; greedy elimination by
agreement in place of its Bayesian search, which measures speed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.costs import StageTimes, best_speed_up, stage_times
from skipstone.runtime.engine import Feed, Model, Part
from skipstone.runtime.methods.depth.at_depths import MOST_LOGITS, MOST_ROWS, text_windows
from skipstone.runtime.methods.depth.skip import SkipSet
from skipstone.runtime.methods.method import SEVERAL_ROWS
from skipstone.runtime.text import LEAST_TOKENS

__all__ = ["Candidate", "Reader", "best_set", "find_skip_set", "spread"]

# Each set reads so many tokens of the text: the share of equal choices is then known to about one percent.
MOST_TOKENS = 2048

Skipped = tuple[int, ...]
"""Numbers of the stages left out, ascending."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Stages left out, how often a draft without them agrees, and what it promises at its best length."""

    skipped: Skipped
    agreement: float
    speed_up: float
    length: int


def find_skip_set(
    model: Model, texts: SequenceOf[str], *, on_progress: Callable[[int], None] = lambda num_sets: None
) -> SkipSet:
    """Return the best layers to leave out of drafts for texts like these; `on_progress` gets the sets of each step.

    Cost: at most S**2 / 2 sets of a model of S stages, each read along 2048 tokens. Raises: ConfigError when no stage
    can be left out, and for a text that is too short.
    """
    manifest = model.manifest
    if not SEVERAL_ROWS.is_met(model):
        raise ConfigError(f"skip {SEVERAL_ROWS.lack}; {SEVERAL_ROWS.remedy}")
    if len(manifest.stages) < 3:
        raise ConfigError(
            f"the bundle has {len(manifest.stages)} stages, of which the first and the last stay; "
            "make one of more with `skipstone export CHECKPOINT -o OUT --cuts each`"
        )
    windows = spread(text_windows(model, texts))
    times, reader = stage_times(model), Reader(model, windows)

    def agreements(sets: SequenceOf[Skipped]) -> list[float]:
        found = reader.agreements(sets)
        on_progress(len(sets))
        return found

    found = best_set(len(manifest.stages), agreements, times)
    stages = [manifest.stages[number] for number in found.skipped]
    return SkipSet(
        num_tokens=sum(map(len, windows)),
        layers=tuple(layer for stage in stages for layer in range(stage.first_layer, stage.end_layer)),
        agreement=found.agreement,
        guess_cost=times.guess_cost(_kept(len(manifest.stages), found.skipped)),
        speed_up=found.speed_up,
        length=found.length,
    )


def spread(windows: SequenceOf[list[int]]) -> list[list[int]]:
    """Return windows from all over the texts, of about MOST_TOKENS together."""
    num_tokens = sum(map(len, windows))
    if num_tokens < LEAST_TOKENS:
        raise ConfigError(
            f"the text has {num_tokens} tokens; the search wants at least {LEAST_TOKENS}: give more or longer files"
        )
    wanted = min(len(windows), -(-MOST_TOKENS * len(windows) // num_tokens))
    return [windows[number * len(windows) // wanted] for number in range(wanted)]


def _kept(num_stages: int, skipped: Skipped) -> list[int]:
    return [number for number in range(num_stages) if number not in skipped]


def best_set(
    num_stages: int, agreements: Callable[[SequenceOf[Skipped]], SequenceOf[float]], times: StageTimes
) -> Candidate:
    """Return the set that promises most, from one stage left out on: each step adds the best, until none is better.

    `agreements` are the shares of tokens at which drafts without some stages agree. It is asked for the sets of a step
    at once, those first whose last added stage comes last: so each begins like the one before it.
    """
    best: Candidate | None = None
    while left := [number for number in range(1, num_stages - 1) if best is None or number not in best.skipped]:
        known = () if best is None else best.skipped
        sets = [tuple(sorted((*known, number))) for number in reversed(left)]
        tried = [_promise(num_stages, *pair, times) for pair in zip(sets, agreements(sets), strict=True)]
        top = max(tried, key=lambda one: one.speed_up)
        if best is not None and top.speed_up <= best.speed_up:
            break
        best = top
    assert best is not None, "a bundle of three stages or more has one to leave out"
    return best


def _promise(num_stages: int, skipped: Skipped, agreement: float, times: StageTimes) -> Candidate:
    guess_cost = times.guess_cost(_kept(num_stages, skipped))
    return Candidate(skipped, agreement, *best_speed_up(agreement, guess_cost, times.verify_costs(skipped[0])))


class Reader:
    """Reads windows of a text [T] with some of the stages, and compares the choices with those of all."""

    def __init__(self, model: Model, windows: SequenceOf[SequenceOf[int]]) -> None:
        self._num_stages = len(model.manifest.stages)
        self._most_rows = max(1, min(MOST_ROWS, MOST_LOGITS // model.manifest.dimensions.vocab_size))
        self._workspace = model.new_workspace(context_length=max(map(len, windows)))
        self._windows = [np.asarray([window]) for window in windows]
        self._wanted = [self._choices(window, (), []) for window in self._windows]

    def agreements(self, sets: SequenceOf[Skipped]) -> list[float]:
        """Return the share of tokens at which a draft without each of the sets chooses as the full model does.

        What a set begins with as the one before it is not computed again.
        """
        same = np.zeros(len(sets))
        for window, wanted in zip(self._windows, self._wanted, strict=True):
            walk: list[tuple[int, NDArray[np.float32]]] = []
            same += [np.count_nonzero(self._choices(window, skipped, walk) == wanted) for skipped in sets]
        return [float(count) for count in same / sum(map(len, self._wanted))]

    def _choices(
        self, window: NDArray[np.int64], skipped: Skipped, walk: list[tuple[int, NDArray[np.float32]]]
    ) -> NDArray[np.int64]:
        """Return the likeliest token [T] after each; `walk` has the stages that ran last, with what each gave."""
        kept = _kept(self._num_stages, skipped)
        same = [number == other for number, (other, _) in zip(kept, walk, strict=False)]
        del walk[same.index(False) if False in same else len(same) :]
        for number in kept[len(walk) :]:
            walk.append((number, self._hidden(window, number, walk[-1][1] if walk else None)))
        hidden, found = walk[-1][1], []
        for start in range(0, window.shape[1], self._most_rows):
            rows = hidden[:, start : start + self._most_rows]
            token_ids = window[0, start : start + self._most_rows]
            feed = Feed.of(token_ids, rows=range(len(token_ids)), hidden=rows)
            found.append(self._workspace.call(feed, Part(())).run(feed).argmax(axis=1))
        return np.concatenate(found)

    def _hidden(
        self, window: NDArray[np.int64], number: int, hidden: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return what one stage gives [1, T, E]."""
        feed = Feed.of(window[0], hidden=hidden)
        call = self._workspace.call(feed, Part((number,), head=False))
        call.run(feed)
        return call.hidden.copy()

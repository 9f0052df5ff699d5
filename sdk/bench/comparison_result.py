"""What came of comparing decoding methods: every run, and the figures made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from skipstone.runtime.methods import PLAIN

__all__ = ["Cell", "Comparison", "Run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One prompt continued by one method. Rounds count from 1.

    `tokens_per_s` is the speed after the first token. `drafted` and `accepted` count guessed tokens. `same_text`: the
    tokens are those of plain decoding in the same round.

    `peak_memory_bytes` is the most that the process held during this run, None where the system cannot count anew from
    a moment on (all but Linux). What earlier runs left with the process, of other methods too, counts with it: all
    share one process and one copy of the weights, so differences between methods are lower bounds.
    """

    round: int
    category: str
    prompt: str
    method: str
    prompt_tokens: int
    tokens_per_s: float
    model_calls: int
    drafted: int
    accepted: int
    same_text: bool
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One method on one category.

    `tokens_per_s` and `ratio`, to plain, are geometric means over prompts of medians over rounds; each ratio is taken
    between two runs of one prompt in one round, so that slow minutes of the machine cancel. `acceptance` is the share
    of guessed tokens that stood, None when none was guessed; `same_text` the share of runs with plain's text: kernels
    that round one row and several differently may turn a near tie. `peak_memory_bytes` is the highest of the runs.
    """

    category: str
    method: str
    tokens_per_s: float
    ratio: float
    acceptance: float | None
    tokens_per_call: float
    same_text: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Methods compared on a suite. `methods` begin with plain; `runs` are in the order in which they ran.

    `adversarial` are the categories that stay out of the usual mean. `process_peak_memory_bytes` is the most that the
    process ever held, loading included. `draft_device` is where the draft model ran, if there is one.
    """

    bundle: str
    precision: str
    device: str
    threads: int
    runtime: str
    suite: str
    new_tokens: int
    rounds: int
    methods: tuple[str, ...]
    categories: tuple[str, ...]
    adversarial: tuple[str, ...]
    process_peak_memory_bytes: int
    command: str
    runs: tuple[Run, ...]
    draft_device: str | None = None

    def cell(self, category: str, method: str) -> Cell:
        """Return the figures of one method on one category."""
        runs = [run for run in self.runs if (run.category, run.method) == (category, method)]
        drafted, peaks = sum(run.drafted for run in runs), [run.peak_memory_bytes or 0 for run in runs]
        plain = {
            (run.round, run.prompt): run for run in self.runs if (run.category, run.method) == (category, PLAIN.name)
        }
        return Cell(
            category=category,
            method=method,
            tokens_per_s=_typical(runs, lambda run: run.tokens_per_s),
            ratio=_typical(runs, lambda run: run.tokens_per_s / plain[run.round, run.prompt].tokens_per_s),
            acceptance=sum(run.accepted for run in runs) / drafted if drafted else None,
            tokens_per_call=len(runs) * self.new_tokens / sum(run.model_calls for run in runs),
            same_text=sum(run.same_text for run in runs) / len(runs),
            peak_memory_bytes=max(peaks) or None,
        )

    def mean_ratio(self, method: str, *, adversarial: bool = False) -> float:
        """Return the geometric mean of the ratios to plain over all categories, adversarial ones only if asked for."""
        counted = [name for name in self.categories if adversarial or name not in self.adversarial]
        return statistics.geometric_mean(self.cell(category, method).ratio for category in counted)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, category by category."""
        for category in self.categories:
            for method in self.methods:
                yield self.cell(category, method)

    def setting(self) -> dict[str, Any]:
        """Return what was run, and where, as plain data: all but the runs."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "runs"}

    def to_json(self) -> dict[str, Any]:
        """Return the setting, the cells, the means and the runs as plain data."""
        return {
            **self.setting(),
            "mean_ratio": {method: self.mean_ratio(method) for method in self.methods},
            "mean_ratio_with_adversarial": {
                method: self.mean_ratio(method, adversarial=True) for method in self.methods
            },
            "cells": [asdict(cell) for cell in self.cells()],
            "runs": [asdict(run) for run in self.runs],
        }


def _typical(runs: list[Run], value: Callable[[Run], float]) -> float:
    """Return the geometric mean over prompts of the median over rounds."""
    by_prompt: dict[str, list[float]] = {}
    for run in runs:
        by_prompt.setdefault(run.prompt, []).append(value(run))
    return statistics.geometric_mean(map(statistics.median, by_prompt.values()))

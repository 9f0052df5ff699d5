"""How close early choices stay to those of all layers, and what they save, at several settings of the dial."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.option_types import check_fields, checks_arguments
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Choice, Normalize, choose, require_answers, require_dial

__all__ = ["DIALS", "ChoiceCase", "ChoiceQuality", "evaluate_choices", "read_cases"]

DIALS = (1.0, 0.9, 0.7, 0.5, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceCase:
    """A prompt and its possible answers; `right` is the one that is true, None where nobody said so."""

    prompt: str
    answers: tuple[str, ...]
    right: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.prompt:
            raise ConfigError("the prompt is empty; give at least one character")
        require_answers(self.answers)
        if self.right is not None and self.right not in self.answers:
            raise ConfigError(f"the right answer {self.right!r} is not one of the answers")

    @classmethod
    def from_json(cls, text: str) -> ChoiceCase:
        """Return the case in a line of JSON: prompt, answers, and if known `right`. Raises: ConfigError."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"no JSON: {error}") from error
        if not isinstance(data, dict) or not {"prompt", "answers"} <= {*data} <= {"prompt", "answers", "right"}:
            raise ConfigError('a case is {"prompt": ..., "answers": [...]}, and if known "right": one of the answers')
        prompt, answers, right = data["prompt"], data["answers"], data.get("right")
        if not isinstance(prompt, str) or not isinstance(right, str | None):
            raise ConfigError("prompt and right are strings")
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise ConfigError("answers is a list of strings")
        return cls(prompt=prompt, answers=tuple(answers), right=right)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuality:
    """One setting of the dial, as means over all cases.

    `agreement` is the share that chose as all layers do, `right` the share of the cases with a right answer that chose
    it, `layers` the share of the layers that ran, `kl` is KL(all layers || used) in nats over the answers, `seconds`
    the time of a choice from text to answer.
    """

    dial: float
    agreement: float
    right: float | None
    layers: float
    kl: float
    seconds: float


def read_cases(path: Path) -> list[ChoiceCase]:
    """Return the cases of a JSONL file. Raises: ConfigError with the number of the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    cases = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                cases.append(ChoiceCase.from_json(line))
            except ConfigError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from error
    if not cases:
        raise ConfigError(f"{path} holds no case; give one a line")
    return cases


@checks_arguments
def evaluate_choices(
    model: Model,
    cases: SequenceOf[ChoiceCase],
    dials: SequenceOf[float] = DIALS,
    *,
    normalize: Normalize = "none",
    closing: bool = False,
    on_progress: Callable[[int], None] = lambda num_cases: None,
    clock: Callable[[], float] = perf_counter,
) -> list[ChoiceQuality]:
    """Return quality and time of early choices at each dial; `on_progress` gets the cases judged.

    `normalize` and `closing` are those of `choose`.

    Every case is decided by all layers and at each dial first, which is not timed, since the first choice of a length
    binds calls; then at the dials again, by the clock. Raises: ConfigError, CacheFull with the number of the case.
    """
    if not cases or not dials:
        raise ConfigError("there is nothing to judge; give at least one case and one dial")
    for dial in dials:
        require_dial(dial)
    tallies = [_Tally() for _ in dials]
    decide = partial(choose, model, normalize=normalize, closing=closing)
    for number, case in enumerate(cases, start=1):
        try:
            full, *_ = (decide(case.prompt, case.answers, dial=dial) for dial in (1.0, *dials))
            for dial, tally in zip(dials, tallies, strict=True):
                start = clock()
                found = decide(case.prompt, case.answers, dial=dial)
                tally.add(found, full, case.right, seconds=clock() - start)
        except SkipstoneError as error:
            raise type(error)(f"case {number}: {error}") from error
        on_progress(1)
    return [tally.quality(dial) for dial, tally in zip(dials, tallies, strict=True)]


@dataclass(slots=True)
class _Tally:
    """What one dial did so far, a number for each case."""

    agrees: list[bool] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    layers: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, found: Choice, full: Choice, right: str | None, *, seconds: float) -> None:
        self.agrees.append(found.index == full.index)
        if right is not None:
            self.is_right.append(found.answer == right)
        self.layers.append(found.depth / found.num_layers)
        self.kl.append(_kl([*full.chances.values()], [*found.chances.values()]))
        self.seconds.append(seconds)

    def quality(self, dial: float) -> ChoiceQuality:
        figures: dict[str, Any] = {
            "agreement": float(np.mean(self.agrees)),
            "right": float(np.mean(self.is_right)) if self.is_right else None,
            "layers": float(np.mean(self.layers)),
            "kl": float(np.mean(self.kl)),
            "seconds": float(np.mean(self.seconds)),
        }
        return ChoiceQuality(dial=float(dial), **figures)


def _kl(wanted: SequenceOf[float], used: SequenceOf[float]) -> float:
    p, q = np.array(wanted), np.maximum(used, np.finfo(np.float64).tiny)
    known = p > 0
    return float((p[known] * np.log(p[known] / q[known])).sum())

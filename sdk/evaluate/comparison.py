"""Several models of one checkpoint side by side: size, quality against a reference, memory and speed.

Each runs in a process of its own. Quality: all read the same few tokens before any goes on, so that of the reference
no more than these rows are ever kept. Speed: in turns, the median of several.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skipstone.errors import ConfigError
from skipstone.evaluate.gguf_model import is_gguf
from skipstone.evaluate.judge import ModelFacts
from skipstone.evaluate.judge_process import JudgeProcess
from skipstone.evaluate.tally import ModelQuality, Tally
from skipstone.runtime.engine import CacheName

__all__ = ["DEPTHS", "ComparedModel", "ModelSpeed", "compare_quality", "compare_speed", "speed_steps"]

DEPTHS: Final = (0, 1000, 3000)
ROUNDS: Final = 3
NEW_TOKENS: Final = 24
PROMPT_TOKENS: Final = 128
KEPT_NUMBERS: Final = 4_000_000  # of the reference's rows in one file: 16 MB
REST_S: Final = 0.2  # threads of the model before may still spin

_REFERENCE_CACHE: Final[CacheName] = "fp32"

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpeed:
    """Memory after a prompt of 128 tokens and 16 more; tokens per second behind so many tokens, where they fit."""

    peak_memory_bytes: int
    tokens_per_s: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedModel:
    """A row of the table."""

    model: str
    facts: ModelFacts
    quality: ModelQuality
    speed: ModelSpeed | None = None


def compare_quality(
    models: SequenceOf[str],
    windows: SequenceOf[SequenceOf[int]],
    *,
    reference: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    cache: CacheName | None = None,
    on_progress: Tick = lambda num_tokens: None,
) -> list[ComparedModel]:
    """Return a row for each model, the reference first; every window is a starting token and what is scored.

    `on_progress` gets the number of tokens that one more model has read. Raises: ConfigError when the models have
    several vocabularies, BundleError, DeviceError.
    """
    names = list(dict.fromkeys([*([reference] if reference else []), *models]))
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="skipstone-") as folder:
        caches = [_REFERENCE_CACHE if name == reference and not is_gguf(name) else cache for name in names]
        judges = [
            stack.enter_context(JudgeProcess(name, device=device, threads=threads, cache=type_of_cache))
            for name, type_of_cache in zip(names, caches, strict=True)
        ]
        _require_one_vocabulary(judges, windows[0])
        run = _Run(judges, Path(folder) / "rows.f32" if reference else None, on_progress)
        for window in windows:
            run.read(window)
        return [
            ComparedModel(model=judge.model, facts=judge.facts, quality=tally.quality())
            for judge, tally in zip(judges, run.tallies, strict=True)
        ]


def _require_one_vocabulary(judges: SequenceOf[JudgeProcess], token_ids: SequenceOf[int]) -> None:
    """Raise ConfigError unless all models have as many tokens and read the same text in these."""
    sizes = {judge.model: judge.facts.vocab_size for judge in judges}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{Path(name).name} has {size}" for name, size in sizes.items())
        raise ConfigError(f"the models have several vocabularies: {listed} tokens; compare models of one checkpoint")
    first, *others = ((judge.model, judge.text(token_ids[1:]).strip()) for judge in judges)
    for name, text in others:
        if text != first[1]:
            raise ConfigError(f"{name} has another tokenizer than {first[0]}; compare models of one checkpoint")


class _Run:
    """Windows read by all models; the first is the reference where there is a file for its rows."""

    def __init__(self, judges: SequenceOf[JudgeProcess], file: Path | None, on_progress: Tick) -> None:
        self._judges, self._file, self._on_progress = judges, file, on_progress
        self._size = max(1, KEPT_NUMBERS // judges[0].facts.vocab_size)
        self.tallies = [Tally() for _ in judges]

    def read(self, window: SequenceOf[int]) -> None:
        """Let every model say of each token but the first what it thinks."""
        for judge in self._judges:
            judge.begin(window)
        for start in range(1, len(window), self._size):
            self._read(window[start : start + self._size])

    def _read(self, targets: SequenceOf[int]) -> None:
        for number, (judge, tally) in enumerate(zip(self._judges, self.tallies, strict=True)):
            first = number == 0
            rows = judge.rows(targets, reference=None if first else self._file, keep=self._file if first else None)
            tally.nats += rows.nats
            tally.kl += rows.kl
            tally.agrees += rows.agrees
            self._on_progress(len(targets))


def compare_speed(
    models: SequenceOf[str],
    *,
    depths: SequenceOf[int] = DEPTHS,
    device: str = "cpu",
    threads: int | None = None,
    cache: CacheName | None = None,
    on_progress: Tick = lambda num_steps: None,
) -> list[ModelSpeed]:
    """Return memory and speed of each model; without `depths` only memory. Depths that do not fit are left out.

    Raises: BundleError, DeviceError.
    """
    with ExitStack() as stack:
        judges, peaks = list[JudgeProcess](), list[int]()
        for model in models:
            judge = stack.enter_context(JudgeProcess(model, device=device, threads=threads, cache=cache))
            judge.fill(max(1, min(PROMPT_TOKENS, judge.facts.context_length - 20)), room=16)
            judge.decode(16)
            judges.append(judge)
            peaks.append(judge.peak_memory())
            on_progress(1)
        speeds: list[dict[int, float]] = [{} for _ in models]
        for depth in depths:
            for number, tokens_per_s in _speeds_at(depth, judges, on_progress):
                speeds[number][depth] = tokens_per_s
    return [ModelSpeed(peak_memory_bytes=peak, tokens_per_s=speed) for peak, speed in zip(peaks, speeds, strict=True)]


def speed_steps(num_models: int, depths: SequenceOf[int]) -> int:
    """Return how many steps `compare_speed` takes at most."""
    return num_models * (1 + len(depths) * (1 + ROUNDS))


def _speeds_at(depth: int, judges: SequenceOf[JudgeProcess], on_progress: Tick) -> Iterator[tuple[int, float]]:
    """Yield the number of each model that has room there, and its tokens per second, in turns with the others."""
    room = (1 + ROUNDS) * NEW_TOKENS
    there = [number for number, judge in enumerate(judges) if depth + room + 3 <= judge.facts.context_length]
    for number in there:
        judges[number].fill(max(1, depth), room=room)
        judges[number].decode(NEW_TOKENS)  # warms up
        on_progress(1)
    times: dict[int, list[float]] = {number: [] for number in there}
    for _ in range(ROUNDS):
        for number in there:
            time.sleep(REST_S)
            times[number].append(judges[number].decode(NEW_TOKENS))
            on_progress(1)
    for number in there:
        yield number, NEW_TOKENS / statistics.median(times[number])

"""What a generation cost, counted step by step."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["Clock", "DrafterStats", "Stats", "peak_memory_bytes", "process_peak_bytes"]

LEAST_S: Final = 1e-9


@dataclass(slots=True, kw_only=True)
class DrafterStats:
    """What one drafter did: the rounds in which its draft was verified, the tokens it guessed, those that stood."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a generation cost. Prefill ends, and decoding starts, when the first token is made.

    `ttft_s` is the time until it is given out, which is later where a method first decides who writes the text.

    `draft_s`, `model_s`, `accept_s` and `other_s` are the parts of the time for decoding: guessing and learning, the
    model's calls, choosing and keeping tokens, and all else, such as making text of tokens.

    `approximate` says what an approximate method promises, None of a lossless one; then `depths` has how many tokens
    were made by so many layers. `seed` gives the same text again; None where no chance was in it.
    `threads` has how many model calls ran on so many threads, where that follows the machine; empty where it is fixed.
    `same_text` says of a lossless one how near the text is to plain decoding's.
    `measuring_s` is what measuring the device took before the text, once for a bundle; no other figure has it.
    Of a text that was cancelled while its prompt was read, `prefill_tokens_per_s` is the speed of what was read.
    """

    prompt_tokens: int
    new_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    model_calls: int
    tokens_per_call: float
    drafters: dict[str, DrafterStats]
    draft_s: float
    model_s: float
    accept_s: float
    other_s: float
    peak_memory_bytes: int
    approximate: str | None = None
    same_text: str | None = None
    depths: dict[int, int] = field(default_factory=dict)
    seed: int | None = None
    threads: dict[int, int] = field(default_factory=dict)
    measuring_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data: depths only of an approximate text, a seed only where chance was in it."""
        data = asdict(self)
        if self.approximate is None:
            del data["approximate"], data["depths"]
        if self.seed is None:
            del data["seed"]
        return data

    @classmethod
    def of_nothing(cls, prompt_tokens: int) -> Stats:
        """Return what a text cost that was cancelled before anything was done for it."""
        return Clock(0).stats(prompt_tokens)


@dataclass(slots=True)
class Clock:
    """Times one generation: from its making to the first token, and from there on.

    `calls` counts those of the model by their threads, also those of other texts. `_first` is when the first token was
    given out, `_waited_s` how long it lay before.
    """

    num_fed: int
    approximate: str | None = None
    seed: int | None = None
    same_text: str | None = None
    _start: float = field(default_factory=time.perf_counter)
    calls: Counter[int] = field(default_factory=Counter)
    _first: float | None = None
    _waited_s: float = 0.0
    _calls: int = 0
    _tokens: int = 0
    _first_tokens: int = 0
    _parts: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    _drafters: dict[str, DrafterStats] = field(default_factory=dict)
    _depths: dict[int, int] = field(default_factory=dict)
    _before: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._before = self.calls.copy()

    @property
    def has_begun(self) -> bool:
        """Whether the first token was given out."""
        return self._first is not None

    def step(
        self,
        num_tokens: int,
        *,
        parts: tuple[float, float, float] = (0.0, 0.0, 0.0),
        waited_s: float = 0.0,
        num_calls: int = 1,
    ) -> None:
        """Count model calls that gave `num_tokens`; `parts` are their seconds of drafting, model and accepting.

        `waited_s` is how long the tokens lay before they were given out.
        """
        if self._first is None:
            self._first, self._first_tokens, self._waited_s = time.perf_counter(), num_tokens, waited_s
        else:
            self._parts = [total + part for total, part in zip(self._parts, parts, strict=True)]
        self._calls += num_calls
        self._tokens += num_tokens

    def draft(self, drafter: str, *, drafted: int, accepted: int) -> None:
        """Count one draft that was verified."""
        stats = self._drafters.setdefault(drafter, DrafterStats())
        stats.rounds += 1
        stats.drafted += drafted
        stats.accepted += accepted

    def depth(self, num_layers: int, num_tokens: int) -> None:
        """Count tokens that so many layers made."""
        self._depths[num_layers] = self._depths.get(num_layers, 0) + num_tokens

    def stats(self, prompt_tokens: int) -> Stats:
        now, first = time.perf_counter(), self._first or time.perf_counter()
        made = first - self._waited_s
        num_decoded = self._tokens - self._first_tokens
        draft_s, model_s, accept_s = self._parts
        return Stats(
            prompt_tokens=prompt_tokens,
            new_tokens=self._tokens,
            prefill_tokens_per_s=self.num_fed / max(made - self._start, LEAST_S),
            decode_tokens_per_s=num_decoded / (now - made) if num_decoded else 0.0,
            ttft_s=first - self._start,
            model_calls=self._calls,
            tokens_per_call=self._tokens / self._calls if self._calls else 0.0,
            drafters=self._drafters,
            draft_s=draft_s,
            model_s=model_s,
            accept_s=accept_s,
            other_s=now - made - sum(self._parts),
            peak_memory_bytes=peak_memory_bytes(),
            approximate=self.approximate,
            same_text=self.same_text,
            depths=dict(sorted(self._depths.items())),
            seed=self.seed,
            threads=dict(sorted((self.calls - self._before).items(), reverse=True)),
        )


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held at once, without what its parent held when it began."""
    if (counted := process_peak_bytes("self")) is not None:
        return counted
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_peak_bytes(process: int | str) -> int | None:
    """Return the most memory that a process has held at once; None where no system file tells."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    words = (line.split() for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(kilobytes) * 1024 for _, kilobytes, *_ in words), None)

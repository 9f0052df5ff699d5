"""Milliseconds of drafting, verifying and leaving early, beside those of the stages that they run.

python tests/benchmarks/depth_calls.py BUNDLE [ROUNDS]      the bundle has exits

The stages are timed inside of plain calls of as many rows, taken in turn with the calls that are judged, so that both
find the same weights in the processor's caches. Overhead is what a call takes beyond the sum of its stages.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages

CONTEXT, TOKEN_ID = 64, 11
DRAFTS = (1, 2, 4, 8, 16)


class TimedSession:
    """An onnxruntime session that notes how long its last run took."""

    def __init__(self, session: Any) -> None:
        self._session, self.ms = session, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        start = perf_counter()
        self._session.run_with_iobinding(binding, options)
        self.ms = (perf_counter() - start) * 1e3


@dataclass
class CallTimes:
    """Medians in milliseconds; keys are (exit's layers) or (exit's layers, guesses); `stages[rows]` is one per session.

    `plain[rows]` is a whole call; `verify` one whose last guess the first stages have not seen, `late` one whose all
    rows they have.
    """

    plain: dict[int, float] = field(default_factory=dict)
    stages: dict[int, list[float]] = field(default_factory=dict)
    peek: dict[int, float] = field(default_factory=dict)
    verify: dict[tuple[int, int], float] = field(default_factory=dict)
    late: dict[tuple[int, int], float] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)

    def peek_sum(self, layers: int) -> float:
        """Return the stages up to an exit, and the head."""
        return sum(self.stages[1][: self.exits[layers]]) + self.stages[1][-1]

    def late_sum(self, layers: int, guesses: int) -> float:
        """Return the stages behind an exit for all rows."""
        return sum(self.stages[1 + guesses][self.exits[layers] :])

    def verify_sum(self, layers: int, guesses: int) -> float:
        """Return what follows `guesses` peeks: the first stages for the last guess, the others for all rows."""
        num_stages = self.exits[layers]
        return sum(self.stages[1][:num_stages]) + sum(self.stages[1 + guesses][num_stages:])


def measure(model: Model, rounds: int) -> CallTimes:
    """Return the times of all calls, measured in turn."""
    model.sessions.graphs = tuple(TimedSession(session) for session in model.sessions.graphs)
    sequence = model.new_sequence(context_length=CONTEXT + 64)
    sequence.append([TOKEN_ID] * CONTEXT)
    sequence.extend(Draft.empty())
    sequence.commit([TOKEN_ID])
    found: dict[Any, list[float]] = defaultdict(list)
    exits = exit_stages(model)
    for turn in range(rounds + 2):
        if turn == 2:  # calls are bound in the first rounds
            found.clear()
        for guesses in (0, *DRAFTS):
            found["plain", 1 + guesses].append(timed_extend(sequence, guesses))
            for number, session in enumerate(model.sessions.graphs):
                found["stage", 1 + guesses, number].append(session.ms)
        for layers, num_stages in exits.items():
            for guesses, kind in itertools.product((0, *DRAFTS), ("verify", "late")):
                for ahead in range(1, 1 + guesses + (kind == "late")):
                    start = perf_counter()
                    sequence.peek([TOKEN_ID] * ahead, num_stages=num_stages)
                    found["peek", layers].append((perf_counter() - start) * 1e3)
                found[kind, layers, guesses].append(timed_extend(sequence, guesses))
    times = CallTimes(exits=dict(exits))
    for key, values in found.items():
        if key[0] == "plain":
            times.plain[key[1]] = median(values)
        elif key[0] == "stage":
            times.stages.setdefault(key[1], []).append(median(values))
        elif key[0] == "peek":
            times.peek[key[1]] = median(values)
        else:
            getattr(times, key[0])[key[1], key[2]] = median(values)
    return times


def timed_extend(sequence: Sequence, guesses: int) -> float:
    """Verify so many guesses, forget them again, and return the milliseconds."""
    start = perf_counter()
    sequence.extend(Draft.chain([TOKEN_ID] * guesses, source="measured"))
    spent = (perf_counter() - start) * 1e3
    sequence.rollback(len(sequence.token_ids))
    return spent


def main() -> None:
    path, *rest = sys.argv[1:]
    times = measure(Model.open(path), int(rest[0]) if rest else 40)
    print("| call | ms | its stages | overhead |\n|---|---|---|---|")
    for rows, spent in times.plain.items():
        show(f"plain, {rows} row{'s' * (rows > 1)}", spent, sum(times.stages[rows]))
    for layers, spent in times.peek.items():
        show(f"a guess from {layers} layers", spent, times.peek_sum(layers))
    for (layers, guesses), spent in times.verify.items():
        if guesses:  # else it is a plain call
            show(f"verify {guesses} from {layers} layers", spent, times.verify_sum(layers, guesses))
    for (layers, guesses), spent in times.late.items():
        show(f"catch up {1 + guesses} rows from {layers} layers", spent, times.late_sum(layers, guesses))


def show(name: str, spent: float, stages: float) -> None:
    print(f"| {name} | {spent:.2f} | {stages:.2f} | {spent / stages - 1:+.1%} |")


if __name__ == "__main__":
    main()

"""Decoding beside busy processes: fixed numbers of threads, and the number that the runtime takes by itself, in turn.

    python tests/benchmarks/busy_device.py BUNDLE
    python tests/benchmarks/busy_device.py BUNDLE --busy 1

Three situations come one after the other: a quiet machine, `--busy` processes that count for ever, quiet again. When
one begins, the runtime writes alone until it has settled; then all take turns, two seconds each. It prints tokens/s
and processor seconds per token, medians of the turns, and how long the runtime took to settle. All write on in
the same text, since where memory lies changes speed by a tenth; `--own-sessions` opens a model for each number.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.devices import physical_cores
from skipstone.runtime.engine import WHOLE, Draft, Model, Sequence
from skipstone.runtime.engine.thread_choice import steps_of_threads

PROMPT, TOKEN = [*range(5, 69)], 5
BUSY = "while True: pass"


class Text:
    """A text without an end: behind the last token that there is room for it begins anew."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._sequence = self._begin()

    def _begin(self) -> Sequence:
        sequence = self.model.new_sequence(context_length=1024)
        sequence.append(PROMPT)
        sequence.extend(Draft.empty())
        return sequence

    def step(self) -> None:
        """Write one token more."""
        if self._sequence.room < 2:
            self._sequence.rollback(0)
            self._sequence.append(PROMPT)
        self._sequence.append([TOKEN])
        self._sequence.extend(Draft.empty())


@dataclass(kw_only=True)
class Way:
    """One way to choose threads: a fixed number, or None for what the runtime takes."""

    threads: int | None
    text: Text
    speeds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "adaptive" if self.threads is None else f"{self.threads} threads"

    def turn(self, seconds: float) -> None:
        crew = self.text.model.sessions.crew
        with nullcontext() if self.threads is None else crew.fixed(self.threads):
            start, cpu_start, num_tokens = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < seconds:
                self.text.step()
                num_tokens += 1
            self.speeds.append(num_tokens / (time.perf_counter() - start))
            self.cpu_s.append((time.process_time() - cpu_start) / num_tokens)


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Keep so many processes busy."""
    with ExitStack() as stack:
        for _ in range(num_processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True))
            stack.callback(process.kill)
        time.sleep(0.3)
        yield


def settle(text: Text, seconds: float) -> list[tuple[float, int]]:
    """Write for so many seconds; return of each token when it came, and which number of threads was chosen."""
    start, seen = time.perf_counter(), []
    while time.perf_counter() - start < seconds:
        text.step()
        seen.append((time.perf_counter() - start, text.model.sessions.crew.chosen((1, WHOLE))))
    return seen


def told_settling(seen: list[tuple[float, int]], best: Way) -> str:
    """Say when the best number was first chosen, and for which share of the tokens from there on."""
    for place, (at_s, threads) in enumerate(seen):
        if threads == best.threads:
            share = sum(number == threads for _, number in seen[place:]) / (len(seen) - place)
            return f"chose {best.name} after {at_s:.2f} s, and for {share:.0%} of the tokens from there on"
    return f"did not choose {best.name}"


def measure(ways: list[Way], rounds: int, seconds: float) -> None:
    for way in ways:
        way.speeds, way.cpu_s = [], []
    for turn in range(rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            way.turn(seconds)


def report(situation: str, ways: list[Way], seen: list[tuple[float, int]]) -> None:
    print(f"\n{situation} (load of the last minute {os.getloadavg()[0]:.1f})")
    fixed = [way for way in ways if way.threads is not None]
    best = max(fixed, key=lambda way: statistics.median(way.speeds))
    for way in ways:
        speed, cpu_s = statistics.median(way.speeds), statistics.median(way.cpu_s)
        ratio = statistics.median(mine / other for mine, other in zip(way.speeds, best.speeds, strict=True))
        print(f"  {way.name:10} {speed:7.1f} tokens/s  {1e3 * cpu_s:6.1f} ms CPU/token  {ratio:5.2f} of the best")
    print(f"  the runtime, alone before, {told_settling(seen, best)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--busy", type=int, default=physical_cores(), help="busy processes; default: as many as cores")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turn", type=float, default=2.0, help="seconds of a turn")
    parser.add_argument("--settle", type=float, default=8.0, help="seconds that the runtime writes alone first")
    parser.add_argument("--own-sessions", action="store_true")
    options = parser.parse_args()
    adaptive = Model.open(options.bundle, max_threads=options.threads)
    text = Text(adaptive)
    ways = [Way(threads=None, text=text)]
    for threads in steps_of_threads(options.threads):
        own = Text(Model.open(options.bundle, threads=threads)) if options.own_sessions else text
        ways.append(Way(threads=threads, text=own))
    for num_busy in (0, options.busy, 0):
        with busy(num_busy):
            seen = settle(text, options.settle)
            measure(ways, options.rounds, options.turn)
        report(f"{num_busy} busy processes", ways, seen)


if __name__ == "__main__":
    main()

"""Try many mutated files, each in a process of its own, and print what came of them.

PYTHONPATH=tests python tests/fuzz/campaign.py --mutations 20000
PYTHONPATH=tests python tests/fuzz/campaign.py --way gguf --only 17   # one again, with what it says
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.bases import Bases, make_bases
from fuzz.child import Outcome, tried
from fuzz.ways import WAYS

__all__ = ["Row", "attempts"]

SEED = 18
FAILURES = ("crash", "error", "hang", "peak", "lines")


def attempts(bases: Bases, way: str, numbers: range, *, seed: int = SEED) -> Iterator[tuple[int, Outcome]]:
    """Yield what comes of the mutations of these numbers; a number always gives the same mutation."""
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            work = WAYS[way](bases, Random(f"{seed}/{way}/{number}"), place)
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            yield number, tried(work, file_bytes=size)


@dataclass(slots=True)
class Row:
    """What came of the mutations of one way in."""

    way: str
    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    largest_bytes: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        self.slowest_s = max(self.slowest_s, outcome.cpu_s)
        self.largest_bytes = max(self.largest_bytes, outcome.peak_bytes)

    def __str__(self) -> str:
        counts = [self.counts.total(), *(self.counts[kind] for kind in ("refused", "ran", *FAILURES))]
        figures = [*map(str, counts), f"{self.slowest_s:.2f}", f"{self.largest_bytes / 1e6:.0f}"]
        return f"| {self.way} | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="of all ways together")
    parser.add_argument("--way", choices=WAYS, help="one way only")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, help="the number of one mutation")
    given = parser.parse_args()
    ways = [given.way] if given.way else list(WAYS)
    numbers = range(given.mutations // len(ways)) if given.only is None else range(given.only, given.only + 1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bases = make_bases(Path(folder))
        try:
            for way in ways:
                rows.append(row := Row(way))
                for number, outcome in attempts(bases, way, numbers, seed=given.seed):
                    row.add(outcome)
                    if outcome.failed or given.only is not None:
                        sys.stderr.write(f"{way} {number}: {outcome.kind}: {outcome.told[:300]}\n")
                    elif number % 100 == 99:
                        sys.stderr.write(f"{way}: {number + 1} of {len(numbers)}\n")
        except KeyboardInterrupt:
            sys.stderr.write("stopped; so far:\n")
    print("| way in | tried | refused | ran | crash | raw error | above 2 s | large | lines | slowest, s | peak, MB |")
    print("|---|" + "---|" * 10)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()

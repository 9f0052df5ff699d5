"""Load a bundle, generate by `auto`, drop the model; print the memory of the process after each round.

python tests/benchmarks/freed.py BUNDLE --rounds 10
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skipstone


def resident_mb() -> float:
    """Return the megabytes that the process holds, on Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    for number in range(options.rounds):
        model = skipstone.load(options.bundle)
        model.generate("def add(first, second):\n", max_new_tokens=48, decode="auto")
        loaded = resident_mb()
        del model
        print(f"round {number + 1:2}: {loaded:6.0f} MB with the model, {resident_mb():6.0f} MB without")


if __name__ == "__main__":
    main()

"""How long a step of one token takes in several bundles: alternating, in one process, in milliseconds.

The fastest step says more than the median where other programs run beside it.

    python tests/benchmarks/step_of_bundles.py BUNDLE BUNDLE ... [--rounds 40] [--depth 128] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

from skipstone.runtime.engine import Draft, Model, Sequence


def step_ms(sequence: Sequence) -> float:
    start = time.perf_counter()
    sequence.extend(Draft.empty())
    took = time.perf_counter() - start
    sequence.commit([5])
    return 1e3 * took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--depth", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    sequences = []
    for bundle in arguments.bundles:
        sequence = Model.open(bundle, threads=arguments.threads).new_sequence(
            context_length=arguments.depth + arguments.rounds + 8
        )
        sequence.append([5] * arguments.depth)
        step_ms(sequence)
        sequences.append(sequence)
    times = [[step_ms(sequence) for sequence in sequences] for _ in range(arguments.rounds)]
    for bundle, own in zip(arguments.bundles, zip(*times, strict=True), strict=True):
        ratios = [one / first[0] for one, first in zip(own, times, strict=True)]
        print(
            f"{bundle}: median {statistics.median(own):.2f} ms, {statistics.median(ratios):.3f} x the first; "
            f"fastest {min(own):.2f} ms, {min(own) / min(step[0] for step in times):.3f} x"
        )


if __name__ == "__main__":
    main()

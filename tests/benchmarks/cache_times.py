"""What a step takes by the type of the cache, behind texts of several lengths, for one row and for more: docs/cache.md.

    python tests/benchmarks/cache_times.py BUNDLE [--lengths 100,1000,3000] [--rows 1,4,8] [--rounds 15] [--threads 2]

The bundle was exported with `--cache int8`. Both types take turns in one process; medians. An exact step is fed as
texts are by default: over fp32 one row of attention is doubled, over int8 none is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from skipstone.runtime.engine import Draft, Model, Sequence


def text_of(model: Model, token_ids: list[int], length: int, *, exact: bool) -> Sequence:
    """Return a sequence with so many tokens cached: random numbers, which take as long as those of a text."""
    sequence, random = model.new_sequence(context_length=length + 16, exact=exact), np.random.default_rng(0)
    sequence.append([*token_ids[:length], 0])
    for buffer in sequence.cache:
        buffer.write((30 * random.standard_normal(buffer.shape, np.float32)).clip(-127, 127).astype(buffer.dtype))
    sequence.mark_cached(length, is_long=False)
    sequence.rollback(length)
    return sequence


def step_ms(sequence: Sequence, token_ids: list[int], length: int, rows: int) -> float:
    """Return the milliseconds of a call of so many rows behind a text, which stays as it is."""
    sequence.append(token_ids[length : length + 1])
    sequence.mark_cached(length, is_long=False)
    draft = Draft.chain(token_ids[length + 1 : length + rows], source="text")
    start = time.perf_counter()
    sequence.extend(draft)
    found = time.perf_counter() - start
    sequence.rollback(length)
    return 1e3 * found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--lengths", default="100,1000,3000")
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    lengths, counts = ([int(number) for number in text.split(",")] for text in (given.lengths, given.rows))
    models = {cache: Model.open(given.bundle, cache=cache, threads=given.threads) for cache in ("fp32", "int8")}
    vocab_size = models["fp32"].manifest.dimensions.vocab_size
    token_ids = np.random.default_rng(0).integers(0, vocab_size, max(lengths) + 16).tolist()
    ways = [
        (cache, exact) for cache in models for exact in (False, True) if not exact or models[cache].is_exact_by_default
    ]
    print("tokens  rows  " + "  ".join(f"{cache}{', exact' if exact else ''}" for cache, exact in ways) + "  (ms)")
    for length in lengths:
        texts = {way: text_of(models[way[0]], token_ids, length, exact=way[1]) for way in ways}
        for rows in counts:
            found = defaultdict(list)
            for number in range(given.rounds + 2):
                for way, sequence in texts.items():
                    took = step_ms(sequence, token_ids, length, rows)
                    if number > 1:
                        found[way].append(took)
            print(
                f"{length:6}  {rows:4}  " + "  ".join(f"{statistics.median(found[way]):8.2f}" for way in ways),
                flush=True,
            )


if __name__ == "__main__":
    main()

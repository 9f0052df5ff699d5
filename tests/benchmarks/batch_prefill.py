"""Reading several prompts together and one after the other, in turn: seconds until all texts have their first token.

python tests/benchmarks/batch_prefill.py BUNDLE ... [--prefill int8] [--texts 8] [--tokens 4 8 16 32 64] [--rounds 7]

Random prompts; `spread` tokens lie between the shortest and the longest. Both ways give the same tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from skipstone.devices import open_device
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import GenerationOptions, batch, stream_batch

WAYS = {"together": batch.groups_of, "in turn": lambda sequences: [range(at, at + 1) for at in range(len(sequences))]}


def first_tokens(model: Model, prompts: list[list[int]], way: str) -> tuple[float, list[int]]:
    """Return the seconds of reading prompts one way, and the first token of each text."""
    batch.groups_of = WAYS[way]
    start, options = time.perf_counter(), GenerationOptions(max_new_tokens=1)
    found = dict(stream_batch(model, prompts, options, context_length=256))
    return time.perf_counter() - start, [found[index].token_ids[0] for index in range(len(prompts))]


def compare(model: Model, prompts: list[list[int]], rounds: int) -> str:
    """Return in words how long both ways take."""
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        tokens = []
        for way, times in spent.items():
            seconds, made = first_tokens(model, prompts, way)
            tokens.append(made)
            if number:  # the first one warms up
                times.append(seconds)
        assert tokens[0] == tokens[1], "the texts differ"
    together, in_turn = (1e3 * median(times) for times in spent.values())
    gain = median(other / own for own, other in zip(*spent.values(), strict=True))
    return f"together {together:.1f} ms, in turn {in_turn:.1f} ms: {gain:.2f} x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--prefill", default="auto", choices=("auto", "int8", "same"))
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--spread", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    for path in args.bundles:
        model = Model(Bundle.open(path), open_device("cpu", threads=args.threads), prefill=args.prefill)
        print(f"{path.name}, --prefill {args.prefill}, {args.texts} prompts; rows free: {model.rounding.is_free}")
        for num_tokens in args.tokens:
            lengths = random.integers(max(1, num_tokens - args.spread), num_tokens + 1, args.texts)
            vocab_size = model.manifest.dimensions.vocab_size
            prompts = [random.integers(3, vocab_size, length).tolist() for length in lengths]
            print(f"  at most {num_tokens} tokens: {compare(model, prompts, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()

"""What a draft head saves and loses: milliseconds of a peek, bytes in memory, guesses that stand.

python tests/benchmarks/draft_head.py BUNDLE [ROUNDS]       the bundle has exits and a draft head

Peeks with the head and with the draft head are timed in turn. A guess stands where it is what the whole model, greedy,
writes next, in its own text behind each of five prompts.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter

from skipstone.runtime.engine import Draft, Model, Sequence

NUM_TOKENS = 120
PROMPTS = (
    "def read_config(path):\n",
    "import os\nimport sys\n\n\nclass Parser:\n",
    "for key in keys:\n    if key in keys:\n",
    "def test_add():\n    assert ",
    "class Node:\n    def __init__(self, value):\n",
)


def opened(model: Model, prompt: str) -> Sequence:
    """Return a text with a cached prompt and a token that waits."""
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(prompt))
    sequence.commit([int(sequence.extend(Draft.empty())[0].argmax())])
    return sequence


def guess(sequence: Sequence, num_stages: int, *, drafting: bool) -> int:
    waiting = sequence.token_ids[sequence.num_cached :]
    return int(sequence.peek(waiting, num_stages=num_stages, drafting=drafting).argmax())


def peek_ms(sequence: Sequence, num_stages: int, rounds: int) -> tuple[float, float]:
    """Return the medians with the head and with the draft head."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for drafting, times in spent.items():
            start = perf_counter()
            guess(sequence, num_stages, drafting=drafting)
            times.append((perf_counter() - start) * 1e3)
    return median(spent[False]), median(spent[True])


def standing(sequence: Sequence, exits: dict[int, int]) -> Counter[tuple[int, bool]]:
    """Return how many guesses of (exit, drafting) stand in `NUM_TOKENS` tokens of the model's own text."""
    counts: Counter[tuple[int, bool]] = Counter()
    for _ in range(NUM_TOKENS):
        keys = [(layers, drafting) for layers in exits for drafting in (False, True)]
        guesses = {key: guess(sequence, exits[key[0]], drafting=key[1]) for key in keys}
        written = int(sequence.extend(Draft.empty())[0].argmax())
        sequence.commit([written])
        counts.update(key for key, guessed in guesses.items() if guessed == written)
    return counts


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


def main(bundle: str, rounds: int = 50) -> None:
    model = Model.open(bundle)
    ends = {stage.end_layer: number for number, stage in enumerate(model.manifest.stages, start=1)}
    exits = {layers: ends[layers] for layers in model.manifest.exits}
    sequence = opened(model, PROMPTS[0])
    for num_stages in exits.values():
        guess(sequence, num_stages, drafting=False)
    before = resident_bytes()
    guess(sequence, 1, drafting=True)
    print(f"{(resident_bytes() - before) / 1e6:.1f} MB more in memory with the draft head open")
    counts: Counter[tuple[int, bool]] = Counter()
    for prompt in PROMPTS:
        counts += standing(opened(model, prompt), exits)
    total = NUM_TOKENS * len(PROMPTS)
    for layers, num_stages in exits.items():
        whole, pruned = peek_ms(sequence, num_stages, rounds)
        print(
            f"exit after {layers}: {whole:.3f} ms, with the draft head {pruned:.3f} ms; guesses that stand "
            f"{counts[layers, False] / total:.1%} and {counts[layers, True] / total:.1%}"
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))

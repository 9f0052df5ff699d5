"""How soon the first token of a long prompt comes, without a prompt cache and with one.

python tests/benchmarks/prompt_cache.py BUNDLE [--tokens 2000] [--runs 5]

A prefix of so many tokens is computed and kept; then a question of a few tokens stands behind it. The time is from the
call to the first piece of text, the reading and checking of the file with it; the model is loaded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import skipstone
from skipstone.language_model import LanguageModel

SENTENCE = "Answer each question in one short sentence, number {}, and say so where you do not know. "
QUESTION = "\nWhat is the capital of France?"


def prefix_of(model: LanguageModel, num_tokens: int) -> str:
    """Return a text of about so many tokens."""
    text, number = "", 0
    while len(model.encode(text + "x")) < num_tokens:
        number += 1
        text += SENTENCE.format(number)
    return text


def first_s(model: LanguageModel, prompt: str, file: Path | None) -> float:
    """Return the seconds to the first piece."""
    start = time.perf_counter()
    next(model.stream(prompt, prompt_cache=file, max_new_tokens=4))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    model = skipstone.load(options.bundle)
    prefix = prefix_of(model, options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefix.cache"
        start = time.perf_counter()
        size = model.save_prefix(file, prefix)
        print(f"{len(model.encode(prefix)):,} tokens kept in {time.perf_counter() - start:.2f} s, {size / 1e6:.1f} MB")
        for name, cache in (("without", None), ("with", file)):
            times = [first_s(model, prefix + QUESTION, cache) for _ in range(options.runs)]
            print(f"{name} the file: first token after {median(times):.3f} s, the first time {times[0]:.3f} s")


if __name__ == "__main__":
    main()

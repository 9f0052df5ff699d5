"""Measure `auto` against plain decoding text by text: 24 prompts of several kinds, the worst of them first.

python tests/benchmarks/never_slower.py pebble --tokens 160 --repeats 5

Each repeat loads the model anew and runs all prompts once, plain and auto in turn, after a text that does not count, so
that no text was seen before. With `--first` each text is the first of a model whose measurements were deleted. A
ratio is the median time of a token in plain decoding over that of auto: below 1 auto is slower. `--cpu` counts the time
of the processor in place of that of the clock, for busy machines; take `--threads 1` with it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import skipstone

NAMES = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
PROMPTS = {
    "code class": "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push",
    "code imports": "import os\nimport sys\n\n\ndef read_config(path):\n",
    "code tests": "def test_add():\n    assert add(1, 2) == 3\n\n\ndef test_sub():\n    assert sub(3, 2) == 1\n\n\ndef",
    "code sql": "SELECT name, price FROM products WHERE price > 10 ORDER BY",
    "code html": "<ul>\n  <li>One</li>\n  <li>Two</li>\n",
    "code error": "try:\n    value = int(text)\nexcept ValueError as error:\n",
    "prose tale": "Once upon a time there was a small village by the sea, where",
    "prose news": "The committee said on Monday that the new rules would",
    "prose science": "Photosynthesis is the process by which plants",
    "prose letter": "Dear Anna,\n\nthank you for your letter. We were all glad to hear that",
    "prose history": "In 1492 the ships left the harbour of Palos, and",
    "prose poem": "The wind goes over the hill,\nthe rain goes over the sea,\n",
    "chat why": "User: Why is the sky blue?\nAssistant:",
    "chat steps": "User: How do I boil an egg?\nAssistant: First,",
    "chat opinion": "User: Which is better, tea or coffee?\nAssistant:",
    "chat short": "Hello! How are",
    "list fruit": "Shopping list:\n- apples\n- bread\n- milk\n-",
    "list numbers": "1. Wash your hands.\n2. Cut the onions.\n3.",
    "list capitals": "France: Paris\nItaly: Rome\nSpain: Madrid\n",
    "repetition words": "again and again and again and again and",
    "repetition lines": "I must not talk in class.\n" * 6,
    "repetition broken": " ".join(f"{name} {number * 37 % 101}" for number, name in enumerate(NAMES * 3)),
    "table csv": "name,age,city\nAnna,31,Rome\nBen,27,Oslo\n",
    "table pipes": "| item | price |\n|---|---|\n| tea | 3.20 |\n| cake | 4.50 |\n",
}


@contextmanager
def fresh_cache() -> Iterator[None]:
    """Let models keep what they measure in a folder of its own, which is deleted behind."""
    before = os.environ.get("SKIPSTONE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKIPSTONE_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["SKIPSTONE_CACHE"]
            if before is not None:
                os.environ["SKIPSTONE_CACHE"] = before


class Benchmark:
    """The times of a token, by prompt and method."""

    def __init__(self, bundle: str, num_tokens: int, threads: int | None, clock: Callable[[], float]) -> None:
        self._bundle, self._num_tokens, self._threads, self._clock = bundle, num_tokens, threads, clock
        self.seconds: dict[str, dict[str, list[float]]] = {name: {"plain": [], "auto": []} for name in PROMPTS}
        self.differences: set[str] = set()

    def load(self) -> skipstone.LanguageModel:
        return skipstone.load(self._bundle, threads=self._threads)

    def time(self, model: skipstone.LanguageModel, name: str, decode: str) -> tuple[int, ...]:
        """Count the time of a token behind the first; return the text."""
        options = {"decode": decode, "max_new_tokens": self._num_tokens, "min_new_tokens": self._num_tokens}
        pieces = model.stream(PROMPTS[name], **options)
        token_ids = [*next(pieces).token_ids]
        start, num_first = self._clock(), len(token_ids)
        for piece in pieces:
            token_ids += piece.token_ids
        self.seconds[name][decode].append((self._clock() - start) / (len(token_ids) - num_first))
        return tuple(token_ids)

    def compare(self, model: Callable[[], skipstone.LanguageModel], name: str, *, auto_first: bool) -> None:
        order = ("auto", "plain") if auto_first else ("plain", "auto")
        if len({self.time(model(), name, decode) for decode in order}) > 1:
            self.differences.add(name)

    def later(self, repeat: int) -> None:
        """Run all prompts on one model, after a text that does not count."""
        model = self.load()
        model.generate("The weather today", max_new_tokens=self._num_tokens)
        for number, name in enumerate(PROMPTS):
            self.compare(lambda: model, name, auto_first=(number + repeat) % 2 == 0)

    def first(self, repeat: int) -> None:
        """Run each prompt on models that were never used."""
        for number, name in enumerate(PROMPTS):
            with fresh_cache():
                self.compare(self.load, name, auto_first=(number + repeat) % 2 == 0)

    def show(self) -> None:
        medians = {name: {way: statistics.median(times[way]) for way in times} for name, times in self.seconds.items()}
        ratios = {name: times["plain"] / times["auto"] for name, times in medians.items()}
        for name in sorted(ratios, key=ratios.__getitem__):
            plain, auto = (1e3 * medians[name][way] for way in ("plain", "auto"))
            remark = "  (another text)" if name in self.differences else ""
            print(f"{ratios[name]:6.3f}  {name:18} plain {plain:8.3f} ms  auto {auto:8.3f} ms a token{remark}")
        worst, median = min(ratios.values()), statistics.median(ratios.values())
        print(f"worst {worst:.3f}, median {median:.3f} of {len(ratios)} prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a folder, or pebble")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--first", action="store_true", help="each text the first of a fresh cache")
    parser.add_argument("--cpu", action="store_true", help="time of the processor, not of the clock")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    benchmark = Benchmark(args.bundle, args.tokens, args.threads, clock)
    with fresh_cache():
        for repeat in range(args.repeats):
            (benchmark.first if args.first else benchmark.later)(repeat)
    benchmark.show()


if __name__ == "__main__":
    main()

"""What texts in several threads get of one model: one that decodes beside one that reads a long prompt, and several.

python tests/benchmarks/texts_at_once.py BUNDLE [--tokens 3000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from threading import Event, Thread

import skipstone

OPTIONS = {"decode": "plain", "exact": False}


class Decoding:
    """A text that is decoded in a thread of its own until it is stopped, and the times between its tokens."""

    def __init__(self, model: skipstone.LanguageModel, context_length: int) -> None:
        self.gaps: list[float] = []
        self._stop, self._model, self._context_length = Event(), model, context_length
        self._thread = Thread(target=self._run)
        self._thread.start()
        while len(self.gaps) < 8:
            time.sleep(0.01)

    def _run(self) -> None:
        last = time.perf_counter()
        pieces = self._model.stream(
            "Once upon a time", max_new_tokens=2000, context_length=self._context_length, **OPTIONS
        )
        for _ in pieces:
            now = time.perf_counter()
            self.gaps.append(now - last)
            last = now
            if self._stop.is_set():
                return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def told(gaps: list[float], seconds: float) -> str:
    pause = f"longest pause {1e3 * max(gaps):.0f} ms" if gaps else "no token"
    return f"{len(gaps) / seconds:.1f} tokens/s, {pause}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = skipstone.load(given.bundle)
    prompt, size = "word " * given.tokens, given.tokens + 2100
    model.generate("word " * 600, max_new_tokens=4, context_length=size, **OPTIONS)
    for _ in range(given.rounds):
        for count in (1, 2, 3):
            texts, start = [Decoding(model, size) for _ in range(count)], [0] * count
            start, since = [len(text.gaps) for text in texts], time.perf_counter()
            time.sleep(2)
            spent = time.perf_counter() - since
            shown = "; ".join(told(text.gaps[at:], spent) for text, at in zip(texts, start, strict=True))
            print(f"{count} texts: {shown}", flush=True)
            for text in texts:
                text.stop()
        for text in (None, Decoding(model, size)):
            heard: list[float] = []
            at = 0 if text is None else len(text.gaps)
            since = time.perf_counter()
            made = model.generate(
                prompt,
                max_new_tokens=1,
                context_length=size,
                on_prompt=lambda progress, heard=heard: heard.append(progress.seconds),
                **OPTIONS,
            )
            spent = time.perf_counter() - since
            pieces = [after - before for before, after in pairwise(heard)]
            beside = "" if text is None else f"; beside it {told(text.gaps[at:], spent)}"
            speed = f"{made.stats.prefill_tokens_per_s:.0f} tokens/s, a piece {1e3 * statistics.median(pieces):.0f} ms"
            print(f"reading: {speed}{beside}", flush=True)
            if text is not None:
                text.stop()


if __name__ == "__main__":
    main()

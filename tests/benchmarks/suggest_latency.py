"""How soon the first suggestion stands there after a key, and how soon a call ends that is cancelled.

python tests/benchmarks/suggest_latency.py [BUNDLE] [--method auto] [--context 500] [--keys 50]

A text of so many tokens is cached; then keys come one by one. Three times are taken at each: until the first words
(`max_new_tokens=1`), until whole drafts behind them, and from `cancel` in the middle of a call to its return.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from statistics import median

import skipstone
from skipstone.bench import bench_texts
from skipstone.suggester import Suggester

TYPED = "\nimport json\n\ndef read_json(path):\n    with open(path) as file:\n        return json.load(file)\n"
PROSE = " It is important to remember that most people would rather have a quiet evening at home than a busy one."


def milliseconds(suggester: Suggester, text: str, most: int | None) -> float:
    start = time.perf_counter()
    suggester.suggest(text, max_new_tokens=most)
    return (time.perf_counter() - start) * 1000


def cancelled_after(suggester: Suggester, text: str, wait_s: float) -> float | None:
    """Return the milliseconds from cancelling a call to its return; None where it was over before."""
    ends: list[float] = []
    drafts: list[object] = []

    def call() -> None:
        drafts.extend(suggester.suggest(text))
        ends.append(time.perf_counter())

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(wait_s)
    start = time.perf_counter()
    suggester.cancel()
    thread.join()
    return None if drafts else (ends[0] - start) * 1000


def line(name: str, times: list[float]) -> str:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{name:24} median {median(times):6.1f} ms, p95 {p95:6.1f} ms, {len(times)} times"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", nargs="?", default="pebble")
    options.add_argument("--method", default="auto")
    options.add_argument("--context", type=int, default=500)
    options.add_argument("--keys", type=int, default=50)
    options.add_argument("--prose", action="store_true", help="type prose, not code")
    asked = options.parse_args()
    model = skipstone.load(asked.bundle if asked.bundle == "pebble" else Path(asked.bundle))
    token_ids = model.runtime.tokenizer.encode("\n".join(bench_texts()) * 4)[: asked.context]
    before, typed = model.runtime.tokenizer.decode(token_ids), (PROSE if asked.prose else TYPED) * 2
    suggester = model.suggester(method=asked.method)
    suggester.suggest(before)
    first, whole, ended = list[float](), list[float](), list[float]()
    for place in range(1, asked.keys + 1):
        text = before + typed[:place]
        first.append(milliseconds(suggester, text, 1))
        whole.append(milliseconds(suggester, text, None))
        end = cancelled_after(suggester, text + typed[place], whole[-1] / 3000)
        ended += [] if end is None else [end]
    print(line("first words", first))
    print(line("whole drafts, after them", whole))
    print(line("cancelled", ended) if ended else "no call was still going on when it was cancelled")


if __name__ == "__main__":
    main()

"""Print what a training of experts brings: KL, perplexity and speed at each level, of a bundle and its trained twin.

    skipstone train-experts CARVED -o TRAINED
    python tests/benchmarks/trained_experts.py TEXT CARVED TRAINED [--windows 8] [--threads 1]

TEXT is a file of text, or of chats in JSON lines, to judge by; KL is to all experts of the same bundle, in nats per
token. Speed is of greedy text by `--decode active`, all bundles and levels in turn, the median of some rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone import LanguageModel, load
from skipstone.calibrate import Documents, token_ids_of
from skipstone.evaluate import divergences, log_softmax
from skipstone.runtime.bundle import SPARSE
from skipstone.runtime.engine import Feed, Model, Part

WINDOW = 256
PROMPT = "Write a short story about a dog that finds an old map."


def windows_of(model: Model, text: str, most: int) -> list[NDArray[np.int64]]:
    """Return windows spread evenly over a text."""
    ids = np.array([*token_ids_of(model.tokenizer, model.chat_template, Documents.read(text))], np.int64)
    count = len(ids) // WINDOW
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    return [ids[number * WINDOW : (number + 1) * WINDOW] for number in chosen]


def log_probs(model: Model, window: NDArray[np.int64], part: Part) -> NDArray[np.float32]:
    feed = Feed.of(window, rows=range(len(window)))
    return log_softmax(model.new_workspace(context_length=WINDOW + 1).call(feed, part).run(feed).copy())


def judge(model: Model, windows: Sequence[NDArray[np.int64]]) -> dict[str, tuple[float, float]]:
    """Return KL and perplexity by level; `dense` are the plain graphs."""
    entry = model.manifest.experts
    assert entry is not None, "a carved bundle"
    parts = {share: Part(variant=SPARSE, active=level.active) for share, level in entry.levels.items()}
    sums = {level: np.zeros(2) for level in ("dense", *parts)}
    for window in windows:
        dense = log_probs(model, window, Part())
        taken = np.arange(len(window) - 1), window[1:]
        sums["dense"] += 0, -dense[taken].sum()
        for share, part in parts.items():
            found = log_probs(model, window, part)
            sums[share] += divergences(dense, found).sum(), -found[taken].sum()
    num_tokens = sum(map(len, windows))
    return {
        level: (kl / num_tokens, float(np.exp(nats / (num_tokens - len(windows)))))
        for level, (kl, nats) in sums.items()
    }


def tokens_per_second(model: LanguageModel, share: str) -> float:
    options = {} if share == "dense" else {"decode": "active", "dial": float(share)}
    start = time.perf_counter()
    made = model.generate(PROMPT, max_new_tokens=64, **({"decode": "plain"} | options))
    return len(made.token_ids) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    models = {bundle: load(bundle, threads=options.threads) for bundle in options.bundles}
    found = {}
    for bundle, model in models.items():
        windows = windows_of(model.runtime, options.text, options.windows)
        found[bundle] = judge(model.runtime, windows)
    levels = [*found[options.bundles[0]]]
    places = [(bundle, level) for bundle in models for level in levels]
    speeds: dict[tuple[Path, str], list[float]] = {place: [] for place in places}
    for _ in range(options.rounds):
        for bundle, level in places:
            speeds[bundle, level].append(tokens_per_second(models[bundle], level))
    print(f"{sum(map(len, windows))} tokens of {options.text}")
    print("| bundle | active | KL | perplexity | tokens/s |\n|---|---|---|---|---|")
    for bundle, level in places:
        kl, perplexity = found[bundle][level]
        label = level if level == "dense" else f"{float(level):.0%}"
        speed = statistics.median(speeds[bundle, level])
        print(f"| {bundle.name} | {label} | {kl:.3f} | {perplexity:.1f} | {speed:.1f} |")


if __name__ == "__main__":
    main()

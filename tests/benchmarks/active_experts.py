"""What fewer active experts cost and bring on a bundle: KL, perplexity and speed by share, and drafts by few experts.

    python tests/benchmarks/active_experts.py BUNDLE TEXT [--tokens 2048] [--prompts 20] [--new-tokens 64]

KL is that of all experts to some, read along the text by teacher forcing; the perplexity is of the same tokens. Speeds
are of greedy texts behind the beginnings of passages, made in turn in one process, the medians of all texts. `sparse`
says how many guesses stood, and whether every text is plain decoding's.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from skipstone.activate.reader import Reader
from skipstone.api import load
from skipstone.evaluate import log_softmax
from skipstone.runtime.engine import Feed, Model, Part
from skipstone.runtime.methods.depth import text_windows
from skipstone.runtime.methods.experts import level_for, sparse_part

SHARES = (0.75, 0.5, 0.25)
PROMPT_TOKENS = 48


def perplexity(model: Model, windows: list[list[int]], part: Part) -> float:
    """Return exp of the mean loss of each next token of the windows."""
    workspace, losses = model.new_workspace(context_length=max(map(len, windows))), []
    for window in windows:
        for start in range(0, len(window) - 1, 64):
            piece = window[start : min(start + 64, len(window) - 1)]
            feed = Feed.of(piece, rows=range(len(piece)), length=start)
            laws = log_softmax(workspace.call(feed, part).run(feed))
            targets = window[start + 1 : start + 1 + len(piece)]
            losses.append(-laws[np.arange(len(targets)), targets])
    return float(np.exp(np.concatenate(losses).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--share", type=float, action="append")
    options = parser.parse_args()
    loaded = load(options.bundle)
    model, text = loaded.runtime, options.text.read_text(encoding="utf-8")
    passages = [passage for passage in text.split("\n\n") if len(passage) > 200]
    windows = text_windows(model, [text])[: max(1, options.tokens // 512)]
    reader = Reader(model, windows)
    ways: dict[str, dict[str, object]] = {"plain": {"decode": "plain"}, "sparse": {"decode": "sparse"}}
    for share in options.share or SHARES:
        part = sparse_part(level := level_for(model, share))
        kl, ppl = reader.kl(level.counts, len(windows)), perplexity(model, windows, part)
        print(f"active {level.share:.1%}: KL {kl:.4f}, perplexity {ppl:.2f}, {level.counts}", flush=True)
        ways[f"active {share:g}"] = {"decode": "active", "dial": share}
    print(f"all: perplexity {perplexity(model, windows, Part()):.2f}", flush=True)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    texts: dict[str, list[str]] = {way: [] for way in ways}
    drafted = accepted = 0
    tokenizer = model.tokenizer
    for number, passage in enumerate([passages[0], *passages[: options.prompts]]):
        prompt = tokenizer.decode(tokenizer.encode(passage)[:PROMPT_TOKENS])
        for way, arguments in ways.items():
            made = loaded.generate(prompt, max_new_tokens=options.new_tokens, **arguments)
            if number:  # the first binds the calls
                rates[way].append(made.stats.decode_tokens_per_s)
                texts[way].append(made.text)
                for of in made.stats.drafters.values() if way == "sparse" else ():
                    drafted, accepted = drafted + of.drafted, accepted + of.accepted
    plain = statistics.median(rates["plain"])
    for way, values in rates.items():
        rate = statistics.median(values)
        same = np.mean([one == other for one, other in zip(texts[way], texts["plain"], strict=True)])
        print(f"{way}: {rate:.1f} tokens/s, {rate / plain:.2f} x plain, same text {same:.0%} of {len(values)}")
    print(f"sparse: {accepted} of {drafted} guesses stood")


if __name__ == "__main__":
    main()

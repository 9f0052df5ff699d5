"""How far an int8 cache moves a model: KL against the fp32 cache over long texts, for docs/cache.md.

    python tests/benchmarks/cache_quality.py BUNDLE TEXTS.jsonl [--texts 3] [--tokens 2000]

The bundle was exported with `--cache int8`. TEXTS.jsonl has a {"text": ...} or {"messages": [...]} in each line; they
are joined to texts of so many tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skipstone.evaluate import log_softmax, score
from skipstone.runtime.engine import Model


def texts_of(path: Path) -> Iterator[str]:
    """Yield the text of each line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        yield data["text"] if "text" in data else "\n\n".join(message["content"] for message in data["messages"])


def joined(model: Model, texts: Iterator[str], num_tokens: int) -> list[int]:
    """Return the tokens of the next texts, so many."""
    token_ids: list[int] = []
    while len(token_ids) < num_tokens:
        token_ids += model.tokenizer.encode(next(texts) + "\n\n")
    return token_ids[:num_tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    plain, int8 = (Model.open(given.bundle, cache=cache, threads=given.threads) for cache in ("fp32", "int8"))
    texts, nats, same, losses = texts_of(given.file), [], [], []
    for number in range(given.texts):
        token_ids = joined(plain, texts, given.tokens)
        for (targets, wanted), (_, found) in zip(score(plain, token_ids), score(int8, token_ids), strict=True):
            p, q = log_softmax(wanted), log_softmax(found)
            nats.append((np.exp(p) * (p - q)).sum(axis=1))
            same.append(p.argmax(axis=1) == q.argmax(axis=1))
            losses.append(np.stack([-rows[np.arange(len(targets)), targets] for rows in (p, q)]))
        print(f"text {number + 1}: KL {np.concatenate(nats).mean():.5f} so far", flush=True)
    kl, (of_fp32, of_int8) = np.concatenate(nats), np.exp(np.concatenate(losses, axis=1).mean(axis=1))
    print(f"{len(kl)} tokens in texts of {given.tokens}: KL {kl.mean():.5f} (99 %: {np.quantile(kl, 0.99):.4f})")
    print(f"top choices kept {np.concatenate(same).mean():.2%}, perplexity {of_fp32:.3f} and {of_int8:.3f}")
    bytes_each = [sum(layer.bytes_per_token for layer in plain.manifest.layout(kind)) for kind in ("float32", "int8")]
    print(f"bytes of a token {bytes_each[0]} and {bytes_each[1]}, {bytes_each[1] / bytes_each[0]:.3f} of them")


if __name__ == "__main__":
    main()

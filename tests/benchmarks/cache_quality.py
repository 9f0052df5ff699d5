"""How far an int8 cache moves a model: KL against the fp32 cache over long texts, for docs/cache.md.

    python tests/benchmarks/cache_quality.py BUNDLE TEXTS.jsonl [--field text] [--texts 3] [--tokens 2000]

The bundle was exported with `--cache int8`. TEXTS.jsonl has an object with such a field in each line; they are joined
to texts of so many tokens. `--floor` feeds the fp32 cache instead a row at a time, which moves last bits only: KL that
any change of the last bits makes, since products round what they multiply to 8 bits. With a --reference, such as the
fp32 bundle of the checkpoint, both types are compared with that.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from skipstone.evaluate import log_softmax, score
from skipstone.runtime.engine import Draft, Model


def texts_of(path: Path, field: str) -> Iterator[str]:
    """Yield the text of each line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)[field]


def one_by_one(model: Model, token_ids: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield what `score` does, computed a row at a time."""
    sequence = model.new_sequence()
    for token_id, target in itertools.pairwise(token_ids):
        sequence.append([token_id])
        yield [target], sequence.extend(Draft.empty())


def rows_of(found: Iterator[tuple[Any, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a target and its log probabilities at a time."""
    for targets, logits in found:
        yield from zip(targets, log_softmax(logits), strict=True)


def joined(model: Model, texts: Iterator[str], num_tokens: int) -> list[int]:
    """Return the tokens of the next texts, so many."""
    token_ids: list[int] = []
    while len(token_ids) < num_tokens:
        token_ids += model.tokenizer.encode(next(texts) + "\n\n")
    return token_ids[:num_tokens]


def beside(reference: Path, threads: int | None, plain: Model, int8: Model, token_ids: list[int]) -> None:
    """Print how far both types are from a reference over one text."""
    truth = Model.open(reference, cache="fp32", threads=threads)
    found = zip(*(rows_of(score(model, token_ids)) for model in (truth, plain, int8)), strict=True)
    nats = [[np.exp(p) @ (p - q) for _, q in others] for (_, p), *others in found]
    of_fp32, of_int8 = np.mean(nats, axis=0)
    print(f"KL to the reference: fp32 cache {of_fp32:.5f}, int8 cache {of_int8:.5f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--field", default="text")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    plain, int8 = (Model.open(given.bundle, cache=cache, threads=given.threads) for cache in ("fp32", "int8"))
    texts, nats, same, losses = texts_of(given.file, given.field), [], [], []
    for number in range(given.texts):
        token_ids = joined(plain, texts, given.tokens)
        if given.reference is not None:
            beside(given.reference, given.threads, plain, int8, token_ids)
            continue
        others = one_by_one(plain, token_ids) if given.floor else score(int8, token_ids)
        for (target, p), (_, q) in zip(rows_of(score(plain, token_ids)), rows_of(others), strict=True):
            nats.append(np.exp(p) @ (p - q))
            same.append(p.argmax() == q.argmax())
            losses.append((-p[target], -q[target]))
        print(f"text {number + 1}: KL {np.mean(nats):.5f} so far", flush=True)
    if not nats:
        return
    of_fp32, of_other = np.exp(np.mean(losses, axis=0))
    print(
        f"{len(nats)} tokens in texts of {given.tokens}: KL {np.mean(nats):.5f} (99 %: {np.quantile(nats, 0.99):.4f})"
    )
    print(f"top choices kept {np.mean(same):.2%}, perplexity {of_fp32:.3f} and {of_other:.3f}")
    bytes_each = [sum(layer.bytes_per_token for layer in plain.manifest.layout(kind)) for kind in ("float32", "int8")]
    print(f"bytes of a token {bytes_each[0]} and {bytes_each[1]}, {bytes_each[1] / bytes_each[0]:.3f} of them")


if __name__ == "__main__":
    main()

"""KL of llama.cpp's quantization types against its own f32 file, on the windows that `skipstone eval` uses.

Needs llama-cpp-python, in an environment of its own, and GGUF files of one checkpoint.

    python quality_llama_cpp.py REFERENCE-f32.gguf TEXT [--max-tokens 30000] QUANTIZED.gguf...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np

WINDOW = 1024


def open_model(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), n_ctx=WINDOW, n_batch=256, n_threads=2, logits_all=True, verbose=False)


def windows(token_ids: list[int], start_id: int, max_tokens: int) -> Iterator[list[int]]:
    token_ids = token_ids[:max_tokens]
    for begin in range(0, len(token_ids), WINDOW - 1):
        yield [start_id, *token_ids[begin : begin + WINDOW - 1]]


def log_probs(model: llama_cpp.Llama, window: list[int]) -> np.ndarray:
    model.reset()
    model.eval(window)
    logits = model.scores[: len(window) - 1].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("quantized", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the checkpoint")
    parser.add_argument("--start-id", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=30000)
    args = parser.parse_args()
    from tokenizers import Tokenizer

    token_ids = Tokenizer.from_file(str(args.tokenizer)).encode(args.text.read_text(encoding="utf-8")).ids
    reference = open_model(args.reference)
    for path in args.quantized:
        model, kl, same, nats, count = open_model(path), 0.0, 0, 0.0, 0
        for window in windows(token_ids, args.start_id, args.max_tokens):
            wanted, found = log_probs(reference, window), log_probs(model, window)
            kl += float((np.exp(wanted) * (wanted - found)).sum())
            same += int((wanted.argmax(1) == found.argmax(1)).sum())
            nats -= float(found[np.arange(len(found)), window[1:]].sum())
            count += len(found)
        record = {"file": path.name, "bytes": path.stat().st_size, "kl": kl / count, "top1_agreement": same / count}
        print(json.dumps(record | {"perplexity": float(np.exp(nats / count)), "num_tokens": count}), flush=True)


if __name__ == "__main__":
    main()

"""Time llama.cpp on a GGUF file, plain decoding; prints the same figures as `skipstone bench -o json`.

python speed_llama_cpp.py MODEL.gguf [--prompt-tokens 128] [--new-tokens 96] [--runs 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import llama_cpp
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    start = time.perf_counter()
    model = llama_cpp.Llama(
        args.model,
        n_ctx=4096,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
    )
    load_s = time.perf_counter() - start
    prompt = np.random.default_rng(0).integers(0, model.n_vocab(), args.prompt_tokens).tolist()
    firsts, totals = [], []
    for _ in range(args.runs + 1):
        model.reset()
        begin = time.perf_counter()
        model.eval(prompt)
        token = int(np.argmax(model._scores[-1]))
        first = time.perf_counter()
        for _ in range(args.new_tokens - 1):
            model.eval([token])
            token = int(np.argmax(model._scores[-1]))
        firsts.append(first - begin)
        totals.append(time.perf_counter() - first)
    print(
        json.dumps(
            {
                "load_s": load_s,
                "load_to_first_token_s": load_s + firsts[0],
                "prefill_tokens_per_s": args.prompt_tokens / statistics.median(firsts[1:]),
                "decode_tokens_per_s": (args.new_tokens - 1) / statistics.median(totals[1:]),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()

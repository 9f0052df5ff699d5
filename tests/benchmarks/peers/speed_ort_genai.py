"""Time ONNX Runtime GenAI on a folder of its model builder; prints the same figures as `skipstone bench -o json`.

    python speed_ort_genai.py FOLDER [--prompt-tokens 128] [--new-tokens 96] [--runs 5]

Set the threads to 2 in the folder's genai_config.json (session_options, intra_op_num_threads).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np
import onnxruntime_genai as genai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=32000)
    args = parser.parse_args()
    start = time.perf_counter()
    model = genai.Model(args.model)
    load_s = time.perf_counter() - start
    prompt = np.random.default_rng(0).integers(3, args.vocab_size, args.prompt_tokens).astype(np.int32)
    firsts, totals = [], []
    for _ in range(args.runs + 1):
        params = genai.GeneratorParams(model)
        length = args.prompt_tokens + args.new_tokens
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(model, params)
        begin = time.perf_counter()
        generator.append_tokens(prompt[None])
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(args.new_tokens - 1):
            generator.generate_next_token()
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

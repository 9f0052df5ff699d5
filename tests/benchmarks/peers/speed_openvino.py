"""Time OpenVINO GenAI on a model folder made by optimum-intel; prints the same figures as `skipstone bench -o json`.

python speed_openvino.py FOLDER [--prompt-tokens 128] [--new-tokens 96] [--runs 5] [--threads 2]

It needs an environment of its own: pip install openvino-genai "optimum-intel[openvino]" nncf. The folder:
optimum-cli export openvino -m CHECKPOINT --task text-generation-with-past \\
    --weight-format int4 --group-size 128 --ratio 1.0 --sym FOLDER
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np
import openvino as ov
import openvino_genai as genai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["SDPA", "PA"], default="SDPA", help="a plain cache, or one in pages")
    args = parser.parse_args()
    start = time.perf_counter()
    settings = {
        "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ATTENTION_BACKEND": args.attention,
    }
    model = genai.LLMPipeline(args.model, "CPU", **settings)
    load_s = time.perf_counter() - start
    prompt = np.random.default_rng(0).integers(3, 4000, (1, args.prompt_tokens))
    tokens = genai.TokenizedInputs(ov.Tensor(prompt), ov.Tensor(np.ones_like(prompt)))
    config = genai.GenerationConfig(max_new_tokens=args.new_tokens, ignore_eos=True, do_sample=False)
    firsts, rests = [], []
    for _ in range(args.runs + 1):
        metrics = model.generate(tokens, config).perf_metrics
        firsts.append(metrics.get_ttft().mean / 1e3)
        rests.append(metrics.get_tpot().mean / 1e3)
    record = {
        "load_s": load_s,
        "load_to_first_token_s": load_s + firsts[0],
        "prefill_tokens_per_s": args.prompt_tokens / statistics.median(firsts[1:]),
        "decode_tokens_per_s": 1 / statistics.median(rests[1:]),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()

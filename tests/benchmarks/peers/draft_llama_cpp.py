"""Time llama.cpp on a suite's prompts, plain and with its prompt lookup; prints tokens/s of each run as JSON.

python draft_llama_cpp.py MODEL.gguf PROMPTS.json [--new-tokens 128] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


def run(model: llama_cpp.Llama, prompt: list[int], new_tokens: int) -> tuple[float, list[int]]:
    """Return tokens/s after the first token, and the tokens; greedy, ends of text are ignored."""
    model.reset()
    made: list[int] = []
    times: list[float] = []
    for token in model.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
        times.append(time.perf_counter())
        made.append(token)
        if len(made) == new_tokens:
            break
    return (new_tokens - 1) / (times[-1] - times[0]), made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    options = {
        "n_ctx": 1024,
        "n_batch": 1024,
        "n_threads": args.threads,
        "n_threads_batch": args.threads,
        "verbose": False,
    }
    models = {
        "plain": llama_cpp.Llama(args.model, **options),
        # Its default of 10 guessed tokens is for GPUs; its documentation names 2 for CPUs.
        "prompt lookup 2": llama_cpp.Llama(
            args.model, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=2), **options
        ),
        "prompt lookup 10": llama_cpp.Llama(args.model, draft_model=LlamaPromptLookupDecoding(), **options),
    }
    prompts = json.loads(args.prompts.read_text(encoding="utf-8"))
    runs = []
    for category, texts in prompts.items():
        for index, prompt in enumerate(texts):
            plain: list[int] = []
            for name, model in models.items():
                speed, made = run(model, prompt, args.new_tokens)
                plain = made if name == "plain" else plain
                runs.append([category, index, name, speed, made == plain])
    print(json.dumps(runs))


if __name__ == "__main__":
    main()

"""Time ONNX Runtime GenAI on a suite's prompts, plain and with its n-gram speculation; prints tokens/s as JSON.

    python draft_ort_genai.py FOLDER PROMPTS.json [--new-tokens 128]

Set the threads to 2 in the folder's genai_config.json (session_options, intra_op_num_threads).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

METHODS = {
    "plain": {},
    "n-gram": {"ngram_size": 3},
    "n-gram chained": {"ngram_size": 3, "ngram_chained_lookup": True, "max_draft_tokens": 8},
}


def run(model: genai.Model, prompt: list[int], new_tokens: int, options: dict[str, object]) -> tuple[float, list[int]]:
    """Return tokens/s after the first token, and the tokens; greedy, ends of text are ignored."""
    length = len(prompt) + new_tokens
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length, do_sample=False)
    if options:
        params.set_speculative_options(**options)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array([prompt], np.int32))
    generator.generate_next_token()
    start, first = time.perf_counter(), generator.token_count()
    while not generator.is_done() and generator.token_count() < length:
        generator.generate_next_token()
    seconds = time.perf_counter() - start
    return (generator.token_count() - first) / seconds, list(map(int, generator.get_sequence(0)[len(prompt) :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--new-tokens", type=int, default=128)
    args = parser.parse_args()
    model = genai.Model(args.model)
    runs = []
    for category, texts in json.loads(args.prompts.read_text(encoding="utf-8")).items():
        for index, prompt in enumerate(texts):
            plain: list[int] = []
            for name, options in METHODS.items():
                speed, made = run(model, prompt, args.new_tokens, options)
                plain = made if name == "plain" else plain
                runs.append([category, index, name, speed, made == plain])
    print(json.dumps(runs))


if __name__ == "__main__":
    main()

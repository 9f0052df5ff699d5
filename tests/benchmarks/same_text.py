"""Compare greedy texts of a real chat model, made in all ways that should change none, and price what keeps them equal.

    python tests/benchmarks/same_text.py BUNDLE [BUNDLE ...] --tokens 240

For each bundle: on how many of 8 everyday prompts the tokens of `plain` come again by `auto`, twice, by `ngram` and
`suffix,recycle`, in a batch, as streams that take turns and from threads. From some 170 tokens on the default drafts
nothing on a float32 cache, so texts should be longer. And what the second row of attention takes of a plain step: the
bundle runs beside a copy whose graphs have none, alternating.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import onnx

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft

METHODS = ("auto", "auto", "ngram", "suffix,recycle")
PROMPTS = (
    "Write a short poem about the sea.",
    "What is the capital of France and what is it known for?",
    "Explain how a bicycle works.",
    "Write a Python function that sorts a list.",
    "Give me a recipe for tomato soup.",
    "Summarize: The cat sat on the mat. The dog barked at the cat. The cat ran away.",
    "List ten animals.",
    "Translate to French: Good morning, how are you?",
)


def num_equal(model: LanguageModel, num_tokens: int) -> int:
    """Return on how many prompts all ways give the tokens of plain decoding."""
    template, options = model.runtime.chat_template, {"max_new_tokens": num_tokens}
    prompts = [
        prompt if template is None else template.render([{"role": "user", "content": prompt}]) for prompt in PROMPTS
    ]
    plain = [model.generate(prompt, decode="plain", **options).token_ids for prompt in prompts]
    ways = {
        f"{decode}, {number}": [model.generate(prompt, decode=decode, **options).token_ids for prompt in prompts]
        for number, decode in enumerate(METHODS)
    }
    ways["batch"] = [made.token_ids for made in model.generate(prompts, **options)]
    ways["in turns"] = _in_turns(model, prompts, options)
    with ThreadPoolExecutor(4) as threads:
        ways["threads"] = list(threads.map(lambda prompt: model.generate(prompt, **options).token_ids, prompts))
    equal = 0
    for number, prompt in enumerate(PROMPTS):
        parts = [way for way, texts in ways.items() if texts[number] != plain[number]]
        length = len(model.runtime.tokenizer.encode(prompts[number])) + len(plain[number])
        print(f"  {'PARTS: ' + '; '.join(parts) if parts else 'same':6} {length:4} tokens  {prompt}")
        equal += not parts
    return equal


def _in_turns(model: LanguageModel, prompts: list[str], options: dict[str, int]) -> list[tuple[int, ...]]:
    """Return the tokens of streams of which each gives a piece in its turn."""
    texts: list[tuple[int, ...]] = [()] * len(prompts)
    for pieces in zip_longest(*(model.stream(prompt, **options) for prompt in prompts)):
        texts = [text + (piece.token_ids if piece else ()) for text, piece in zip(texts, pieces, strict=True)]
    return texts


def without_second_rows(bundle: Path, folder: Path) -> Path:
    """Copy a bundle whose attention reads rows as they come: no more nodes, no row twice."""
    copy = Path(shutil.copytree(bundle, folder / "single"))
    for path in copy.glob("stage-*.onnx"):
        model = onnx.load(path, load_external_data=False)
        renamed, nodes = dict[str, str](), list[onnx.NodeProto]()
        for node in model.graph.node:
            if node.op_type == "Gather" and node.input[1] in ("attention_rows", "token_rows"):
                renamed[node.output[0]] = node.input[0]
            else:
                node.input[:] = [renamed.get(name, name) for name in node.input]
                nodes.append(node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        inputs = [value for value in model.graph.input if value.name not in ("attention_rows", "token_rows")]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        onnx.save(model, path)
    manifest = json.loads((copy / "skipstone.json").read_text(encoding="utf-8"))
    for name in manifest["files"]:
        data = (copy / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (copy / "skipstone.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def step_s(model: LanguageModel, length: int, num_steps: int) -> float:
    """Return the median seconds of a step of plain decoding behind so many tokens."""
    sequence = model.runtime.new_sequence(context_length=length + num_steps + 2)
    sequence.append([5 + number % 100 for number in range(length)])
    sequence.extend(Draft.empty())
    times = []
    for _ in range(num_steps):
        sequence.commit([7])
        start = time.perf_counter()
        sequence.extend(Draft.empty())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def price(bundle: Path, *, length: int, pairs: int) -> float:
    """Return the median ratio of steps with the second row and without, of alternating runs."""
    with tempfile.TemporaryDirectory() as folder:
        models = [skipstone.load(path) for path in (bundle, without_second_rows(bundle, Path(folder)))]
        ratios = []
        for _ in range(pairs):
            both = [step_s(model, length, 24) for model in models]
            ratios.append(both[0] / both[1])
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=240)
    parser.add_argument("--pairs", type=int, default=15, help="alternating runs of each price; 0 leaves prices out")
    options = parser.parse_args()
    for bundle in options.bundles:
        model = skipstone.load(bundle)
        print(f"{bundle}: {num_equal(model, options.tokens)} of {len(PROMPTS)} same; {model.runtime.rounding}")
        for length in (64, 1000) if options.pairs else ():
            print(f"  step behind {length} tokens: {price(bundle, length=length, pairs=options.pairs):.3f} x")


if __name__ == "__main__":
    main()

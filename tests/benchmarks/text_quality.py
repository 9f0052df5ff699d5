"""What decoding ways that are to make better texts bring on a model, beside greedy decoding and plain sampling.

    python tests/benchmarks/text_quality.py BUNDLE --chats replies.jsonl          # lines with `prompt` and `reply`
    python examples/pebble/heldout.py held-out.txt
    python tests/benchmarks/text_quality.py pebble --code held-out.txt --json pebble.json

Chats: the words that an answer shares with the given reply (F1). Code: the share of functions, completed behind their
head, that parse, and whose first line is the true one. Both: the perplexity of the texts under the model itself, the
share of distinct 4-grams, the share of texts in which eight tokens repeat, tokens per second. Each with a standard
error. Plain sampling is written as one batch; speed is measured apart, one text at a time, the ways in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from text_figures import (
    Function,
    completed,
    distinct,
    functions_of,
    has_loop,
    is_next_line,
    mean_and_error,
    overlap,
    parses,
    spread,
)

from skipstone.api import load
from skipstone.evaluate.unsure import entropy_border
from skipstone.language_model import LanguageModel
from skipstone.runtime.generation import Generation

TRUNCATIONS: Mapping[str, Mapping[str, float]] = {
    "min-p 0.1": {"min_p": 0.1},
    "top-p 0.9": {"top_p": 0.9},
    "top-H 0.4": {"top_h": 0.4},
}
Options = Mapping[str, Any]


def ways_of(border: float) -> dict[str, Options]:
    """Return the ways by name; `border` is the entropy from which on AdaDec looks ahead."""
    ways: dict[str, Options] = {"greedy": {"decode": "plain"}}
    ways |= {f"momentum {dial:g}": {"decode": "momentum", "dial": dial} for dial in (0.1, 0.2)}
    ways[f"adadec {border:.2f}"] = {"decode": "adadec", "dial": border}
    for temperature in (0.7, 1.0, 1.5):
        for name, truncation in TRUNCATIONS.items():
            ways[f"{name}, T {temperature:g}"] = {"decode": "plain", "temperature": temperature, **truncation}
    for temperature in (0.7, 1.0):
        drawn = {"decode": "cautious", "dial": 10, "temperature": temperature, "top_p": 0.9}
        ways[f"cautious 10, top-p 0.9, T {temperature:g}"] = drawn
    return ways


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts, how long their texts may be, and the figures of a text beside those of any."""

    prompts: SequenceOf[str]
    num_tokens: int
    judge: Callable[[int, Generation], Mapping[str, float]]
    texts: SequenceOf[str]


def chat_task(model: LanguageModel, file: Path, most: int, num_tokens: int) -> Task:
    """Return instructions with the replies that others gave."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = list({line["prompt"]: line for line in lines}.values())
    chosen = [lines[place] for place in spread(len(lines), most)]
    template = model.runtime.chat_template

    def prompt(text: str) -> str:
        return text if template is None else template.render([{"role": "user", "content": text}])

    def judge(number: int, made: Generation) -> Mapping[str, float]:
        return {"words as in reply": overlap(made.text, chosen[number]["reply"])}

    return Task([prompt(line["prompt"]) for line in chosen], num_tokens, judge, [line["reply"] for line in chosen])


def code_task(file: Path, most: int, num_tokens: int) -> Task:
    """Return functions of Python files, or of one, to be completed behind their heads."""
    files = sorted(file.rglob("*.py")) if file.is_dir() else [file]
    sources = [one.read_text(encoding="utf-8") for one in files]
    functions = [function for source in sources for function in functions_of(source)]
    chosen: list[Function] = [functions[place] for place in spread(len(functions), most)]

    def judge(number: int, made: Generation) -> Mapping[str, float]:
        code = completed(chosen[number], made.text, is_whole=made.finish_reason == "stop")
        return {"parses": parses(code), "true next line": is_next_line(chosen[number], made.text)}

    return Task([function.prompt for function in chosen], num_tokens, judge, sources)


def write(model: LanguageModel, task: Task, way: Options) -> Iterator[Generation]:
    """Yield the text of each prompt: drawn texts of plain decoding in batches, the others one by one."""
    options = {"max_new_tokens": task.num_tokens, "logprobs": 0, **way}
    if way["decode"] == "plain":
        for start in range(0, len(task.prompts), 20):
            yield from model.generate(
                list(task.prompts[start : start + 20]), exact=False, context_length=1024, seed=start, **options
            )
        return
    for seed, prompt in enumerate(task.prompts):
        yield model.generate(prompt, seed=seed, context_length=1024, **options)


def figures(task: Task, made: SequenceOf[Generation]) -> dict[str, list[float]]:
    """Return the figures of a way: mean and standard error, of the perplexity as the exponent of the mean nats."""
    rows = [
        {
            "nats": -float(np.mean([one.logprob for one in text.logprobs])),
            "distinct-4": distinct(text.token_ids),
            "loops": float(has_loop(text.token_ids)),
            "tokens": float(len(text.token_ids)),
            **task.judge(number, text),
        }
        for number, text in enumerate(made)
    ]
    found = {name: [*mean_and_error([row[name] for row in rows])] for name in rows[0]}
    nats, error = found.pop("nats")
    return {"perplexity": [float(np.exp(nats)), float(np.exp(nats) * error)], **found}


def speeds(model: LanguageModel, task: Task, ways: Mapping[str, Options], runs: int) -> dict[str, list[float]]:
    """Return tokens per second of each way, run by run, the ways in turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        for name, way in ways.items():
            prompt = task.prompts[run % len(task.prompts)]
            stats = model.generate(prompt, max_new_tokens=64, seed=run, context_length=1024, **way).stats
            found[name].append(stats.decode_tokens_per_s)
    return found


def table(rows: Mapping[str, Mapping[str, SequenceOf[float]]], speed: Mapping[str, SequenceOf[float]]) -> str:
    """Return the figures as a Markdown table."""
    names = [*next(iter(rows.values()))]
    lines = [f"| way | {' | '.join(names)} | tokens/s |", "|---" * (len(names) + 2) + "|"]
    for way, row in rows.items():
        cells = [_cell(row[name]) for name in names]
        lines.append(f"| {way} | {' | '.join(cells)} | {statistics.median(speed.get(way) or [float('nan')]):.0f} |")
    return "\n".join(lines)


def _cell(figure: SequenceOf[float]) -> str:
    mean, error = figure
    digits = 1 if mean >= 10 else 2
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--chats", type=Path, help="JSON Lines with `prompt` and `reply`")
    parser.add_argument("--code", type=Path, help="a Python file, or a folder of them")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--border", type=float, help="entropy for AdaDec; default: by the logistic rule on the texts")
    parser.add_argument("--only", nargs="*", help="ways whose name begins so")
    parser.add_argument("--runs", type=int, default=5, help="texts of 64 tokens for the speed; 0: none")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write figures here, way by way")
    args = parser.parse_args()
    if (args.chats is None) == (args.code is None):
        parser.error("give --chats or --code")
    model = load(args.bundle, threads=args.threads)
    make = partial(chat_task, model) if args.chats else code_task
    task = make(args.chats or args.code, args.prompts, args.tokens)
    border = args.border or entropy_border(model.runtime, task.texts, max_tokens=4096)
    print(f"{len(task.prompts)} prompts; wrong half of the time at {border:.2f} nats", file=sys.stderr)
    only = tuple(args.only or [""])
    ways = {name: way for name, way in ways_of(border).items() if name.startswith(only)}
    speed = speeds(model, task, ways, args.runs)
    rows: dict[str, dict[str, list[float]]] = {}
    for name, way in ways.items():
        rows[name] = figures(task, list(write(model, task, way)))
        print(table({name: rows[name]}, speed).splitlines()[-1], file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps({"border": border, "ways": rows, "speed": speed}, indent=1))
    print(table(rows, speed))


if __name__ == "__main__":
    main()

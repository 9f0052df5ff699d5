"""Compare drafting of several programs on one suite, taking turns: tokens/s by category, and times the first program.

    python compare_drafts.py --rounds 3 "llama.cpp=PEER/bin/python draft_llama_cpp.py MODEL.gguf prompts.json" \
        "skipstone=skipstone bench suite MODEL --decode auto --runs 1 -q -o json"

Each command prints JSON: a list of [category, prompt, method, tokens/s, same text], or what `skipstone bench` prints.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
from collections import defaultdict
from typing import Any

Speeds = dict[tuple[str, str], dict[tuple[str, str], list[float]]]
"""(program, method) -> (category, prompt) -> tokens/s of each round."""


def runs(output: str) -> list[tuple[str, str, str, float, bool]]:
    data: Any = json.loads(output)
    if isinstance(data, dict):
        names = ("category", "prompt", "method", "tokens_per_s", "same_text")
        return [tuple(run[name] for name in names) for run in data["runs"]]
    return [(category, str(prompt), method, speed, same) for category, prompt, method, speed, same in data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    speeds: Speeds = defaultdict(lambda: defaultdict(list))
    same: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for _ in range(args.rounds):
        for program in args.programs:
            name, _, command = program.partition("=")
            output = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout
            for category, prompt, method, speed, equal in runs(output):
                speeds[name, method][category, prompt].append(speed)
                same[name, method].append(equal)
    categories = list(dict.fromkeys(category for category, _ in next(iter(speeds.values()))))
    print("| program | method | " + " | ".join(categories) + " | worst prompt, x plain | same text |")
    print("|---" * (len(categories) + 4) + "|")
    for (name, method), prompts in speeds.items():
        medians = {key: statistics.median(found) for key, found in prompts.items()}
        plain = {key: statistics.median(found) for key, found in speeds[name, "plain"].items()}
        cells = []
        for category in categories:
            found = [speed for (where, _), speed in medians.items() if where == category]
            cells.append(f"{math.exp(statistics.fmean(map(math.log, found))):.0f}")
        worst = min(medians[key] / plain[key] for key in medians)
        share = statistics.fmean(same[name, method])
        print(f"| {name} | {method} | {' | '.join(cells)} | {worst:.2f} | {share:.0%} |")


if __name__ == "__main__":
    main()

"""Two versions of the package beside each other: tokens/s of decoding the same bundle, runs in turn (A B A B).

    python tests/benchmarks/versions.py OLD_PYTHON BUNDLE [--rounds 5] [--new-tokens 128]

OLD_PYTHON is the interpreter of an environment with the other version; this one is the new. Prints the medians and
their ratio, above 1 where the new version is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

METHODS = ("plain", "auto")
PROMPT = "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
RUN = """import json, sys, skipstone
bundle, prompt, num_tokens, methods = json.loads(sys.argv[1])
model = skipstone.load(bundle)
speeds = {}
for method in methods:
    runs = [model.generate(prompt, max_new_tokens=num_tokens, decode=method, temperature=0.0) for _ in range(4)]
    speeds[method] = sorted(run.stats.decode_tokens_per_s for run in runs)[-2]
print(json.dumps(speeds))"""


def speeds(python: str, bundle: str, new_tokens: int) -> dict[str, float]:
    """Return the tokens/s of each method in a process of its own: the second best of four runs."""
    what = json.dumps([bundle, PROMPT, new_tokens, METHODS])
    result = subprocess.run([python, "-c", RUN, what], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old_python")
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    arguments = parser.parse_args()
    rounds = [
        [speeds(python, arguments.bundle, arguments.new_tokens) for python in (arguments.old_python, sys.executable)]
        for _ in range(arguments.rounds)
    ]
    for method in METHODS:
        old, new = (statistics.median(pair[place][method] for pair in rounds) for place in (0, 1))
        ratio = statistics.median(pair[1][method] / pair[0][method] for pair in rounds)
        print(f"{method:6} old {old:7.1f}  new {new:7.1f} tokens/s  median of ratios {ratio:.3f}")


if __name__ == "__main__":
    main()

"""How much longer texts repeat themselves, by greedy decoding and by contrastive search, and how likely they are.

python tests/benchmarks/suggest_repeats.py BUNDLE FILE.jsonl [--field reply] [--prefixes 20] [--new-tokens 48]

A text follows the first 32 tokens of each line. `repeated` is the share of its pairs of tokens that stood in it before;
`nats` is the mean log probability of its tokens. alpha 0 is greedy decoding.
"""

from __future__ import annotations

import argparse
import functools
import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import skipstone
from skipstone.runtime.suggest import finish
from skipstone.runtime.suggest.contrast import contrast

PREFIX, ALPHAS = 32, (0.0, 0.2, 0.4, 0.6, 0.8)


def repeated(token_ids: tuple[int, ...]) -> float:
    pairs = list(pairwise(token_ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--field", default="reply")
    parser.add_argument("--prefixes", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=48)
    chosen = parser.parse_args()
    model = skipstone.load(chosen.bundle)
    lines = chosen.texts.read_text(encoding="utf-8").splitlines()[: chosen.prefixes]
    prompts = [model.encode(json.loads(line)[chosen.field])[:PREFIX] for line in lines]
    request = model.suggest_request(num_drafts=1, max_new_tokens=chosen.new_tokens)
    print("| alpha | repeated | nats |\n|---|---|---|")
    for alpha in ALPHAS:
        way, found = functools.partial(contrast, alpha=alpha), []
        for prompt in prompts:
            sequence = model.runtime.new_sequence(context_length=PREFIX + 5 * chosen.new_tokens)
            sequence.append(prompt)
            found += finish(way(sequence, request))
        shares = [repeated(draft.token_ids) for draft in found]
        print(f"| {alpha} | {fmean(shares):.1%} | {fmean(draft.score for draft in found):.2f} |", flush=True)


if __name__ == "__main__":
    main()

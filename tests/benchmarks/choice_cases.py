"""Make cases for `skipstone eval choices` from a text: which token comes next, the true one or three frequent others.

python tests/benchmarks/choice_cases.py pebble held-out.txt cases.jsonl
skipstone eval choices BUNDLE --cases cases.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from skipstone.api import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="whose tokenizer cuts the text")
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--frequent", type=int, default=50, help="the others are drawn from so many frequent tokens")
    args = parser.parse_args()
    tokenizer, random = load(args.bundle).runtime.tokenizer, np.random.default_rng(0)
    token_ids = tokenizer.encode(args.text.read_text(encoding="utf-8"), add_special_tokens=False)
    words = [tokenizer.decode([token_id]) for token_id in token_ids]
    frequent = [word for word, _ in Counter(word for word in words if word.strip()).most_common(args.frequent)]
    places = np.linspace(args.prompt_tokens, len(words) - 1, args.cases * 4, dtype=int)
    lines = []
    for place in [place for place in places if words[place].strip()][: args.cases]:
        prompt = tokenizer.decode(token_ids[place - args.prompt_tokens : place])
        others = random.choice([word for word in frequent if word != words[place]], size=3, replace=False)
        answers = random.permutation([words[place], *others]).tolist()
        lines.append(json.dumps({"prompt": prompt, "answers": answers, "right": words[place]}) + "\n")
    args.out.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()

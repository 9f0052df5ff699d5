"""Write the token ids of a suite's prompts for the peers, which have tokenizers of their own: {category: [[ids], ...]}.

python suite_prompts.py BUNDLE OUT.json [--suite code]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import skipstone
from skipstone.bench import Suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", default="code")
    args = parser.parse_args()
    model = skipstone.load(args.bundle)
    suite = Suite.named(args.suite)
    prompts = {
        category.name: [model.encode(prompt.text) for prompt in category.prompts] for category in suite.categories
    }
    args.out.write_text(json.dumps(prompts), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Count the n-grams of the modules that pebble was trained on: the store that its suggestions use.

python ngrams.py ../../sdk/models/pebble/code.ngrams
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from corpus import is_held_out, modules

from skipstone.runtime.text import NgramCounts, Tokenizer

PEBBLE = Path(__file__).parents[2] / "sdk" / "models" / "pebble"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--bytes", type=int, default=5_000_000, help="the file holds no more; a wheel packs it to 56 %%"
    )
    args = parser.parse_args()
    tokenizer, counts = Tokenizer.load(PEBBLE), NgramCounts()
    for name, text in modules():
        if not is_held_out(name):
            counts.add(tokenizer.encode(text, add_special_tokens=False))
    vocabulary = hashlib.sha256((PEBBLE / "tokenizer.json").read_bytes()).hexdigest()
    store = counts.store(vocabulary=vocabulary, max_bytes=args.bytes)
    size = store.save(args.out)
    table = store.table
    kept = f"{len(table.keys):,} contexts, {len(table.counts):,} n-grams that stood {table.counts.min()} times or more"
    print(f"{counts.num_tokens:,} tokens: {kept}, {size:,} bytes")


if __name__ == "__main__":
    main()

"""Write the text of the held-out modules, one after the other, to a file: the text that pebble is judged on.

python heldout.py heldout.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from corpus import held_out_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    texts = held_out_texts()
    args.out.write_text("\n".join(texts), encoding="utf-8")
    print(f"{len(texts)} modules, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

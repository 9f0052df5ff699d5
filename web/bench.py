"""The side of Python in `npm run bench`: for each line, a prompt as JSON, the tokens a second of its text."""

from __future__ import annotations

import json
import sys

import skipstone


def main() -> None:
    bundle, threads, num_tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = skipstone.load(bundle, threads=threads)
    for line in sys.stdin:
        result = model.generate(json.loads(line), max_new_tokens=num_tokens, decode="plain", temperature=0)
        print(result.stats.decode_tokens_per_s, flush=True)


if __name__ == "__main__":
    main()

"""A batch job: prompts from a JSON-lines file, texts to standard output as JSON lines, several at once.

    python batch_jsonl.py prompts.jsonl [--at-once 8] > answers.jsonl

Each line of the input has a field "prompt"; the other fields are passed through.
"""

import argparse
import itertools
import json
from pathlib import Path

import skipstone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bundle", default="pebble")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    args = parser.parse_args()
    model = skipstone.load(args.bundle)
    with args.file.open(encoding="utf-8") as lines:
        jobs = (json.loads(line) for line in lines if line.strip())
        while group := list(itertools.islice(jobs, args.at_once)):
            answers = model.generate([job["prompt"] for job in group], max_new_tokens=args.max_new_tokens)
            for job, answer in zip(group, answers, strict=True):
                print(json.dumps({**job, "text": answer.text, "finish_reason": answer.finish_reason}), flush=True)


if __name__ == "__main__":
    main()

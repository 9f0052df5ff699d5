"""Make recordings of edits from a git history, for `skipstone bench replay`: the prompt holds the file before.

python tests/benchmarks/edits.py . edits.jsonl --suffix .py --max-bytes 12000
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def edits(repository: Path, suffix: str, max_bytes: int) -> Iterator[dict[str, str]]:
    """Yield the modified files of every commit, oldest first, that are short enough to stand in a prompt twice."""
    for line in git(repository, "log", "--reverse", "--no-merges", "--format=%H %s").splitlines():
        commit, _, subject = line.partition(" ")
        for name in git(
            repository, "diff-tree", "-r", "--no-commit-id", "--name-only", "--diff-filter=M", commit
        ).splitlines():
            if not name.endswith(suffix):
                continue
            before, after = (git(repository, "show", f"{revision}:{name}") for revision in (f"{commit}^", commit))
            if max(len(before.encode()), len(after.encode())) <= max_bytes:
                yield {"prompt": f"{before}\n# {subject}\n", "reply": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suffix", default=".py", help="only files whose names end so")
    parser.add_argument("--max-bytes", type=int, default=12000, help="longest file, so that it fits a context twice")
    args = parser.parse_args()
    records = list(edits(args.repository, args.suffix, args.max_bytes))
    args.out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    print(f"{len(records)} edits, {sum(len(record['reply'].encode()) for record in records)} bytes")


if __name__ == "__main__":
    main()

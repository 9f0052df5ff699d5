"""From the shell to the first byte of an answer: the medians of commands, in turn.

    python first_token.py BUNDLE --rounds 9

Each is a process of its own; the first round, which may measure the device or export, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CODE = "from skipstone.cli.app import main; main()"


def first_byte_s(words: list[str]) -> float:
    """Return after how many seconds a command wrote its first byte on standard output."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            sys.exit(f"nothing was written by: skipstone {' '.join(words)}")
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    commands = {
        "generate": ["generate", given.bundle, "-p", "Hello", "-n", "1"],
        "inspect": ["inspect", given.bundle],
        "inspect --help": ["inspect", "--help"],
        "--version": ["--version"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(given.rounds + 1):
        for name, words in commands.items():
            seconds = first_byte_s(words)
            if index:
                times[name].append(seconds)
    for name, seconds_of in times.items():
        print(f"{name:15} {statistics.median(seconds_of):.2f} s  ({min(seconds_of):.2f} to {max(seconds_of):.2f})")


if __name__ == "__main__":
    main()

"""Prefill side by side: programs take turns in one sitting, and ratios are taken within a round.

python tests/benchmarks/prefill.py BUNDLE --peer NAME=COMMAND ... [--tokens 1024] [--rounds 5]

BUNDLE was exported with --prefill int8, and is timed both ways. A peer is a command that prints the figures of
`skipstone bench -o json`, such as those in tests/benchmarks/peers:

    --peer "llama.cpp Q4_0=PEER/bin/python tests/benchmarks/peers/speed_llama_cpp.py model-q4_0.gguf"
    --peer "OpenVINO int4=OV/bin/python tests/benchmarks/peers/speed_openvino.py model-openvino-int4"

`--prompt-tokens`, `--new-tokens` and `--runs` are added. The last line is the ratio to the quickest peer.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from statistics import median

SKIPSTONE = [sys.executable, "-c", "from skipstone.cli.app import main; main()"]


def tokens_per_s(command: list[str], num_tokens: int, runs: int) -> tuple[float, float]:
    """Return prefill tokens/s and peak MB of one program."""
    sizes = ["--prompt-tokens", str(num_tokens), "--new-tokens", "2", "--runs", str(runs)]
    output = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True).stdout
    record = json.loads(output[output.index("{") :])
    return record["prefill_tokens_per_s"], record["peak_memory_bytes"] / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=2, help="of a program in a round, after one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    bench = [*SKIPSTONE, "bench", "speed", args.bundle, "-q", "-o", "json", "--threads", str(args.threads)]
    programs = {f"skipstone --prefill {name}": [*bench, "--prefill", name] for name in ("same", "int8")}
    peers = dict(peer.split("=", 1) for peer in args.peer)
    programs |= {name: [*shlex.split(command), "--threads", str(args.threads)] for name, command in peers.items()}
    for num_tokens in args.tokens:
        speeds: dict[str, list[float]] = {name: [] for name in programs}
        memory: dict[str, float] = {}
        for _ in range(args.rounds):
            for name, command in programs.items():
                speed, memory[name] = tokens_per_s(command, num_tokens, args.runs)
                speeds[name].append(speed)
        print(f"\n| {num_tokens} tokens: program | prefill tokens/s | first token, s | peak MB | times the best peer |")
        print("|---|---|---|---|---|")
        for name, of_rounds in speeds.items():
            ratios = (
                [speed / max(speeds[peer][at] for peer in peers) for at, speed in enumerate(of_rounds)]
                if peers
                else [1]
            )
            speed = median(of_rounds)
            print(
                f"| {name} | {speed:.0f} | {num_tokens / speed:.2f} | {memory[name]:.0f} | {median(ratios):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

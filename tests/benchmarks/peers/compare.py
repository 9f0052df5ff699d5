"""Run several programs in turn (A B C A B C ...) and compare their speed: one sitting, medians, ratios to the first.

    python compare.py --rounds 5 \\
        "llama.cpp Q4_0=PEER/bin/python speed_llama_cpp.py ref336-q4_0.gguf" \\
        "skipstone int4=skipstone bench ref336-int4 -q -o json"

Each program prints one JSON object with the figures below.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess

FIGURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "load_to_first_token_s", "peak_memory_bytes")


def run(command: str) -> dict[str, float]:
    output = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True).stdout
    record: dict[str, float] = json.loads(output[output.index("{") :])
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    programs = dict(program.split("=", 1) for program in args.program)
    records: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, command in programs.items():
            records[name].append(run(command))
    first = next(iter(programs))
    print("| program | prefill tokens/s | decode tokens/s | load to first token, s | peak MB | prefill x | decode x |")
    print("|---|---|---|---|---|---|---|")
    for name, rounds in records.items():
        prefill, decode, load, memory = (statistics.median(one[key] for one in rounds) for key in FIGURES)
        # Ratios within a round, then their median: the machine's speed drifts between rounds.
        ratios = [
            statistics.median(one[key] / base[key] for one, base in zip(rounds, records[first], strict=True))
            for key in FIGURES[:2]
        ]
        cells = f"{prefill:.0f} | {decode:.1f} | {load:.2f} | {memory / 1e6:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

"""What stand-ins for experts bring: the KL at some shares of active experts as carved, and distilled; in float32.

Usage: python tests/benchmarks/distilled_experts.py CHECKPOINT [--text FILE] [--shares 0.75,0.5] [--way sizes/fit]
"""

from __future__ import annotations

import argparse
import time

from skipstone.api import plan
from skipstone.calibrate import Documents
from skipstone.carve import find_experts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--text", default="auto")
    parser.add_argument("--shares", default="0.75,0.5")
    parser.add_argument("--way", default="sizes/fit", help="how to carve; each layer's best way takes much longer")
    arguments = parser.parse_args()
    documents = Documents.read(arguments.text)
    for share in map(float, arguments.shares.split(",")):
        start = time.perf_counter()
        planned = plan(arguments.checkpoint, precision="int8")
        found = find_experts(planned, "auto", documents, active=share, way=arguments.way, distill=True)
        assert found.losses is not None, "losses were asked for"
        before, after = found.losses
        seconds = time.perf_counter() - start
        print(f"{share:.0%} active: KL {before:.3f}, distilled {after:.3f} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

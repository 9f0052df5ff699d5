"""Peak memory of plain decoding and of drafting from an exit, in processes of their own, in turn.

python tests/benchmarks/depth_memory.py BUNDLE [RUNS]      the bundle has exits
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

PROMPT = "def read_config(path):\n    with open(path) as file:\n"
METHODS = ("plain", "self")


def main() -> None:
    bundle, *rest = sys.argv[1:]
    if rest[:1] == ["--child"]:
        print(peak_of_one_text(bundle, rest[1]))
        return
    peaks: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(int(rest[0]) if rest else 5):
        for method, found in peaks.items():
            command = [sys.executable, __file__, bundle, "--child", method]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    plain = median(peaks["plain"])
    for method, found in peaks.items():
        print(f"{method:6} {median(found):.1f} MB, {median(found) / plain - 1:+.1%}", end=", ")
        print(f"from {min(found):.1f} to {max(found):.1f}")


def peak_of_one_text(bundle: str, method: str) -> float:
    """Return the megabytes of this process at most, after one text of 128 tokens."""
    import skipstone

    skipstone.load(bundle).generate(PROMPT, max_new_tokens=128, decode=method)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()

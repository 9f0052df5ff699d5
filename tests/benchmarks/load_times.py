"""How long bundles take to load, in turn with another version of skipstone: each load in a process of its own.

python tests/benchmarks/load_times.py pebble my-bundle
python tests/benchmarks/load_times.py pebble my-bundle --other /path/of/another/bin/python
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

LOAD = """
import sys, time
import skipstone, skipstone.api, skipstone.runtime.engine
from skipstone.by_name import resolve
folder = resolve(sys.argv[1])
start = time.perf_counter()
model = skipstone.load(folder)
print(time.perf_counter() - start)
"""


def load_ms(python: str, bundle: str) -> float:
    """Return how long one load takes in an interpreter, imports aside."""
    done = subprocess.run([python, "-c", LOAD, bundle], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--other", help="interpreter of another version")
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    pythons = {"this": sys.executable} | ({"other": given.other} if given.other else {})
    for bundle in given.bundles:
        times: dict[str, list[float]] = {name: [] for name in pythons}
        for _ in range(given.runs):
            for name, python in pythons.items():
                times[name].append(load_ms(python, bundle))
        told = ", ".join(f"{name} {median(values):.1f} ms (least {min(values):.1f})" for name, values in times.items())
        print(f"{bundle}: {told}")


if __name__ == "__main__":
    main()

"""Whether logits are the same bits on any number of threads: fixed, and with some of them parked.

    python tests/benchmarks/same_bits_of_threads.py BUNDLE [BUNDLE ...] [--threads 4]

Calls of 1 to 256 rows, behind no text and behind longer ones; prints the calls that differ from those on one thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import CpuDevice
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 33, 64, 100, 255, 256)
PASTS = (0, 70, 600)


def logits(model: Model, parked: int = 0) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Return the logits of calls by their rows and by how many tokens are cached, with so many threads parked."""
    ids = np.random.default_rng(0).integers(5, model.manifest.dimensions.vocab_size, 1024).tolist()
    crew, seen = model.sessions.crew, {}
    for past in PASTS:
        sequence = model.new_sequence(context_length=1024)
        for rows in ROWS:
            sequence.rollback(0)
            sequence.append(ids[: past + 1])
            with crew.fixed(model.device.threads - parked):
                seen[rows, past] = sequence.extend(Draft.chain(ids[past + 1 : past + rows], source="bits")).copy()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    for path in options.bundles:
        bundle = Bundle.open(path)
        alone = logits(Model(bundle, CpuDevice(threads=1)))
        for threads in range(2, options.threads + 1):
            model = Model(bundle, CpuDevice(threads=threads, adapts=True))
            for parked in range(threads):
                others = logits(model, parked)
                differ = [call for call in alone if not np.array_equal(alone[call], others[call])]
                told = f"differ in calls of (rows, cached) {differ}" if differ else "same bits"
                print(f"{path.name}: {threads} threads, {parked} of them parked: {told}", flush=True)


if __name__ == "__main__":
    main()

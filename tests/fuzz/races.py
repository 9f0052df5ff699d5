"""Loads beside forced exports of two bundles to one place: each gives the one or the other, never parts of both.

PYTHONPATH=tests python tests/fuzz/races.py --loads 200
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import skipstone
from fuzz.bases import make_bases

PROMPT = "the quick brown fox"
# Exports the two checkpoints in turn to one place, until it is ended.
WRITER = """
import itertools, sys, skipstone
for number in itertools.count():
    skipstone.export(sys.argv[1 + number % 2], sys.argv[3], precision="fp32", force=True)
"""


def text_of(bundle: Path) -> str:
    """Return what a bundle writes; its files are read at the load, and while it decodes."""
    with skipstone.load(bundle, threads=1) as model:
        found = model.generate(PROMPT, max_new_tokens=16, decode="plain").token_ids
        return json.dumps([model.runtime.manifest.provenance.source, list(found)])


def race(place: Path, loads: int) -> Counter[str]:
    """Return how many loads gave each text, or an error."""
    first = make_bases(place / "bases").checkpoint
    second = place / "second"
    second.mkdir()
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    random, tensors = np.random.default_rng(2), load_file(first / "model.safetensors")
    save_file(
        {name: random.permuted(tensor).astype(np.float32) for name, tensor in tensors.items()},
        second / "model.safetensors",
    )
    known = {}
    for source in (first, second):
        skipstone.export(source, place / "alone", precision="fp32", force=True)
        known[text_of(place / "alone")] = source.name
    target = place / "target"
    skipstone.export(first, target, precision="fp32")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(first), str(second), str(target)])
    counts = Counter[str]()
    try:
        for _ in range(loads):
            try:
                counts[known.get(text_of(target), "mixed")] += 1
            except skipstone.SkipstoneError as error:
                counts[f"error: {error}"] += 1
            time.sleep(np.random.default_rng().uniform(0, 0.05))
    finally:
        writer.kill()
        writer.wait()
    text_of(target)
    left = sorted(path.name for path in place.iterdir() if path.name.startswith(".target"))
    counts["left behind"] = len(left)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=200)
    with tempfile.TemporaryDirectory() as folder:
        for name, count in sorted(race(Path(folder), parser.parse_args().loads).items()):
            print(f"{count:6} {name}")


if __name__ == "__main__":
    main()

"""Golden: what an export writes does not change by accident. `tests/same_bytes.py` compares two versions in full.

To record anew, after a change that is meant:

    PYTHONPATH=tests python tests/exporters/test_same_bundle.py > tests/exporters/golden_bundles.json
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from same_bytes import fingerprint

import skipstone

GOLDEN = Path(__file__).with_name("golden_bundles.json")
# Integers of 4 bits come out of a search over sums, which processors may round apart: of them the graph alone.
CASES: dict[str, dict[str, Any]] = {
    "int4": {"precision": "int4", "exits": "auto", "draft_head": "auto"},
    "int8": {"precision": "int8", "exits": "2,4", "cuts": "each"},
    "fp32": {"precision": "fp32"},
}


def prints(name: str, folder: Path) -> dict[str, str]:
    """Export pebble; return a hash of each graph, and of the weights where all processors round them alike."""
    bundle = skipstone.export("pebble", folder / name, **CASES[name])
    graphs = {path.name: fingerprint(path) for path in sorted(bundle.glob("*.onnx"))}
    if name == "int4":
        return graphs
    return graphs | {"weights.bin": hashlib.sha256((bundle / "weights.bin").read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", CASES)
def test_pebble_is_exported_to_the_recorded_graphs_and_weights(name: str, tmp_path: Path) -> None:
    assert prints(name, tmp_path) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps({name: prints(name, Path(made)) for name in CASES}, indent=1))

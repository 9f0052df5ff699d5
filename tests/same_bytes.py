"""Do two versions of the package export the same bundles? Graphs and weights byte by byte, and the manifests.

    python tests/same_bytes.py OLD_PYTHON [NEW_PYTHON]

Each is the interpreter of an environment with one version of skipstone; NEW_PYTHON is this one by default. The program
makes the checkpoints, which needs the extra `test`. It ends with 1 where a file differs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

PEBBLE = [
    {"precision": "int4"},
    {"precision": "int8"},
    {"precision": "fp32"},
    {"precision": "int4", "exits": "auto"},
    {"precision": "int8", "exits": "2,4", "cuts": "each"},
    {"precision": "int4", "drafter": "pebble-mini"},
    {"precision": "int4", "exits": "auto", "draft_head": "auto"},
]
FAMILIES = ("Llama", "Qwen 3", "Gemma 3n", "Phi-3", "GPT-2", "Mixtral")
EXPORT = """import json, sys, skipstone
for source, out, options in json.loads(sys.argv[1]):
    skipstone.export(source, out, **options)"""


def fingerprint(graph: Path) -> str:
    """Return a hash of a graph's nodes, values and tensors that does not depend on how the file is serialized."""
    parsed = onnx.load(graph, load_external_data=False).graph
    lines = [
        f"{node.domain} {node.op_type} {list(node.input)} {list(node.output)} "
        f"{sorted(onnx.helper.printable_attribute(attribute) for attribute in node.attribute)}"
        for node in parsed.node
    ]
    for tensor in sorted(parsed.initializer, key=lambda tensor: tensor.name):
        where = sorted((entry.key, entry.value) for entry in tensor.external_data)
        inside = [] if where else onnx.numpy_helper.to_array(tensor).tobytes().hex()
        lines.append(f"{tensor.name} {tensor.data_type} {list(tensor.dims)} {where} {inside}")
    ends = (*parsed.input, *parsed.output)
    lines += [f"{value.name} {onnx.helper.printable_type(value.type)}" for value in ends]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def contents(bundle: Path) -> dict[str, str]:
    """Return a hash of each file of a bundle but of its manifests, by name."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "skipstone.json")
    return {str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest(bundle: Path) -> dict[str, Any]:
    """Return the manifest of a bundle in today's words, without where and by which version it was made."""
    data: dict[str, Any] = json.loads((bundle / "skipstone.json").read_text(encoding="utf-8"))
    if "drafter" in data:
        data["draft_model"] = data.pop("drafter")
    del data["format_version"], data["provenance"]
    data["files"] = sorted(data["files"])
    return data


def checkpoints(folder: Path) -> dict[str, Path]:
    """Write a tiny checkpoint of each family, and a GGUF file."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples" / "families")]
    from checkpoints import FAMILIES as SETTINGS
    from checkpoints import write_checkpoint
    from gguf_files import converter

    def write(model_type: str, **settings: object) -> Path:
        write_checkpoint(folder / model_type, model_type, settings)
        return folder / model_type

    def write_for_gguf(model_type: str, **settings: object) -> Path:
        path = write(model_type, **settings) / "tokenizer.json"
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        tokenizer["model"]["vocab"]["th"], tokenizer["model"]["merges"] = 258, [["t", "h"]]  # GGUF wants a merge
        path.write_text(json.dumps(tokenizer), encoding="utf-8")
        return path.parent

    written = {name: write(SETTINGS[name][0], **SETTINGS[name][1]) for name in FAMILIES}
    return written | {"GGUF Q8_0": converter(write_for_gguf, lambda: folder)("llama", kind="Q8_0")}


def export_all(python: str, cases: Mapping[str, tuple[str, dict[str, Any]]], folder: Path) -> None:
    """Let one version export all cases, each to a folder of its name."""
    folder.mkdir()
    plan = [(source, str(folder / name), options) for name, (source, options) in cases.items()]
    subprocess.run([python, "-c", EXPORT, json.dumps(plan)], check=True, cwd=folder)


def main() -> int:
    pythons = {"old": sys.argv[1], "new": sys.argv[2] if len(sys.argv) > 2 else sys.executable}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cases: dict[str, tuple[str, dict[str, Any]]] = {
            "pebble " + " ".join(map(str, options.values())): ("pebble", options) for options in PEBBLE
        }
        for name, checkpoint in checkpoints(folder).items():
            cases[name] = (str(checkpoint), {"precision": "int4"})
        for version, python in pythons.items():
            export_all(python, cases, folder / version)
        num_different = 0
        for name in cases:
            old, new = folder / "old" / name, folder / "new" / name
            same = contents(old) == contents(new) and manifest(old) == manifest(new)
            num_different += not same
            print(f"{name:40} {len(contents(new)):3} files  {'the same' if same else 'DIFFERENT'}")
            if not same:
                differing = {
                    k
                    for k in contents(old).keys() | contents(new).keys()
                    if contents(old).get(k) != contents(new).get(k)
                }
                print("   ", sorted(differing) or "the manifest")
        return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())

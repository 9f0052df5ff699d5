"""The ways in: for each, what is mutated, and what a user would do with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

from fuzz.bases import Bases
from fuzz.mutations import HOSTILE, changed_bytes, changed_json, changed_template, written

__all__ = ["WAYS", "Attack"]

Attack: TypeAlias = Callable[[Bases, Random, Path], Callable[[], object]]
"""The bases, a generator and an empty folder to what is to be done with the mutated copy that it wrote there."""


def _export(source: Path, place: Path, **options: Any) -> Callable[[], object]:
    """Export, load and generate: whatever gets through the exporter must run or be refused, too."""

    def run() -> None:
        import skipstone

        skipstone.export(source, place / "out", precision="fp32", **options)
        _generate(place / "out")

    return run


def _generate(bundle: Path, **options: Any) -> None:
    import skipstone

    with skipstone.load(bundle, threads=1) as model:
        model.generate("the fox", **{"max_new_tokens": 2, "decode": "plain"} | options)


def _json_or_bytes(file: Path, random: Random, *, share: float = 0.7) -> None:
    """Change a file of JSON as data, or as bytes."""
    data = file.read_bytes()
    if random.random() < share:
        file.write_bytes(written(changed_json(json.loads(data), random, times=random.choice((1, 1, 2, 3)))))
    else:
        file.write_bytes(changed_bytes(data, random))


def _header_or_bytes(file: Path, random: Random) -> None:
    """Change the header of a safetensors file as JSON, or bytes at its start or anywhere."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if random.random() < 0.6:
        header = written(changed_json(json.loads(data[8 : 8 + size]), random))
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    else:
        file.write_bytes(changed_bytes(data, random, within=random.choice((16, size, None))))


def safetensors(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.checkpoint, place / "in"))
    _header_or_bytes(folder / "model.safetensors", random)
    return _export(folder, place)


def index(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.sharded, place / "in"))
    _json_or_bytes(folder / "model.safetensors.index.json", random, share=0.9)
    return _export(folder, place)


def config(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.checkpoint, place / "in"))
    _json_or_bytes(folder / random.choice(("config.json", "config.json", "generation_config.json")), random, share=0.9)
    return _export(folder, place)


def gguf(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    file = place / "model.gguf"
    within = random.choice((24, 600, 20_000, None))
    file.write_bytes(changed_bytes(bases.gguf.read_bytes(), random, within=within))
    return _export(file, place)


def tokenizer(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.checkpoint, place / "in"))
    _json_or_bytes(folder / random.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json")), random)
    return _export(folder, place)


def template(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    source = changed_template((bases.checkpoint / "chat_template.jinja").read_text(), random)

    def run() -> None:
        from skipstone.runtime.text import ChatTemplate

        messages = [{"role": role, "content": "the fox " * 50} for role in ("system", "user", "assistant", "user")]
        found = ChatTemplate(source)
        found.turn_end()
        found.render(messages)

    return run


def manifest(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.bundle, place / "bundle"))
    _json_or_bytes(folder / "skipstone.json", random, share=0.95)
    return lambda: _generate(folder)


def graph(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    from altered_bundles import fit_manifest

    folder = Path(shutil.copytree(bases.bundle, place / "bundle"))
    file = random.choice(sorted(folder.glob("*.onnx")))
    if random.random() < 0.6:
        file.write_bytes(_changed_graph(file.read_bytes(), random))
    else:
        file.write_bytes(changed_bytes(file.read_bytes(), random))
    fit_manifest(folder)
    return lambda: _generate(folder)


def _changed_graph(data: bytes, random: Random) -> bytes:
    """Change the nodes, values or tensors of a graph."""
    import onnx

    model = onnx.load_from_string(data)
    nodes, values = model.graph.node, [*model.graph.input, *model.graph.output]
    node, value = random.choice(nodes), random.choice(values)
    match random.randrange(9):
        case 0:
            node.op_type = random.choice(("Loop", "If", "Scan", "Concat", "Expand", "Tile", "Range", "NonZero", "Add"))
        case 1:
            node.domain = random.choice(("", "com.microsoft", "com.stranger"))
        case 2 if node.attribute:
            attribute = random.choice(node.attribute)
            attribute.i, attribute.f = random.choice((0, -1, 2**31, 2**62)), float("nan")
        case 3 if node.input:
            node.input[random.randrange(len(node.input))] = random.choice([other.name for other in values] + [""])
        case 4 if sizes := value.type.tensor_type.shape.dim:
            random.choice(sizes).dim_value = random.choice((0, 1, 2**31, 2**62))
        case 5:
            value.type.tensor_type.elem_type = random.randrange(25)
        case 6:
            value.name = random.choice(("logits", "hidden", "past_key_9", "", "x" * 1000, "rows"))
        case 7 if stored := [tensor for tensor in model.graph.initializer if tensor.external_data]:
            entry = random.choice(random.choice(stored).external_data)
            entry.value = random.choice(("0", "-1", "4096", str(2**62), "../secret", "/etc/passwd", "weights.bin"))
        case _:
            del nodes[random.randrange(len(nodes))]
    return bytes(model.SerializeToString())


def kept(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    cache = place / "cache"
    notes = Path(shutil.copytree(bases.notes, cache / "profiles"))
    for file in sorted(notes.glob("*.json")):
        _json_or_bytes(file, random)

    def run() -> None:
        import warnings

        os.environ["SKIPSTONE_CACHE"] = str(cache)
        warnings.simplefilter("ignore")
        _generate(bases.bundle, decode=random.choice(("auto", "ngram", "self")))

    return run


def adapter(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    folder = Path(shutil.copytree(bases.adapter, place / "adapter"))
    if random.random() < 0.6:
        _json_or_bytes(folder / "adapter_config.json", random, share=0.95)
    else:
        _header_or_bytes(folder / "adapter_model.safetensors", random)
    return _export(bases.checkpoint, place, lora=folder)


def options(bases: Bases, random: Random, place: Path) -> Callable[[], object]:
    from dataclasses import fields

    from skipstone.runtime.generation import GenerationOptions
    from skipstone.runtime.sampling import SamplingOptions

    names = [field.name for kind in (GenerationOptions, SamplingOptions) for field in fields(kind)]
    values = [value for value in HOSTILE if not isinstance(value, str) or not value.startswith("@")]
    values += [(2**63,), (-1,), {5: float("nan")}, {2**63: 1.0}, {5: 10**400}, ("a", "\ud800"), 5e-324, "plain"]
    chosen = {random.choice(names): random.choice(values) for _ in range(random.choice((1, 1, 2)))}
    return lambda: _generate(bases.bundle, **chosen)


WAYS: Final[dict[str, Attack]] = {
    attack.__name__: attack
    for attack in (safetensors, index, config, gguf, tokenizer, template, manifest, graph, kept, adapter, options)
}

"""What the bytes of a bundle's weights are spent on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from skipstone.runtime.bundle import PREFILL, Bundle

__all__ = ["draft_head_tokens", "part_sizes"]

_PART_OF = {
    "embedding": "embedding",
    "head": "head",
    "rotary": "rotary tables",
    "positions": "learned positions",
    "qkv": "attention",
    "o": "attention",
    "gate_up": "ffn",
    "up": "ffn",
    "down": "ffn",
    "router": "experts",
    "experts": "experts",
    "altup": "streams",
    "per_layer_embedding": "per-layer embedding",
    "exits": "exit adapters",
}


def part_sizes(bundle: Bundle) -> dict[str, int]:
    """Return bytes by part, the largest first; a tensor that graphs share counts once, a tied embedding as head."""
    if bundle.manifest.is_traced:  # its tensors have names of their own
        return {"all weights": bundle.manifest.files["weights.bin"].size}
    manifest, tensors = bundle.manifest, dict[int, tuple[str, int]]()
    files = [*(stage.file for stage in manifest.stages), *([manifest.head] if manifest.head else [])]
    for file in [*files, *manifest.adapters.values()]:  # a draft head has no bytes but the head's
        tensors |= {start: (name, size) for name, start, size in _stored(bundle.file(file))}
    sizes: dict[str, int] = {}
    for name, num_bytes in tensors.values():
        part = _part(name)
        sizes[part] = sizes.get(part, 0) + num_bytes
    for part, num_bytes in _of_variants(bundle, {at: size for at, (_, size) in tensors.items()}):
        sizes[part] = sizes.get(part, 0) + num_bytes
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _of_variants(bundle: Bundle, taken: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    """Yield the part and the bytes of each tensor that only variants read; `taken` are sizes by offset."""
    ends = {at: at + size for at, size in taken.items()}
    for file in sorted({file for files in bundle.manifest.variants.values() for file in files.values()}):
        for name, at, size in _stored(bundle.file(file)):
            if not any(start <= at < end for start, end in ends.items()):  # some read rows of what others read
                ends[at] = at + size
                yield _part_of_variant(name), size


def _stored(graph: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and bytes of each tensor of a graph that lies in the weights' file."""
    for tensor in _graph(graph).initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            yield tensor.name, int(told.get("offset", 0)), int(told["length"])


def _graph(file: Path) -> onnx.GraphProto:
    return onnx.load(file, load_external_data=False).graph


def _part_of_variant(name: str) -> str:
    if name.startswith(f"{PREFILL}."):
        return "prompts in int8"
    return "cache scales" if name.endswith(("key_scales", "value_scales")) else "experts"


def draft_head_tokens(bundle: Bundle) -> int | None:
    """Return how many of the first tokens of the vocabulary the draft head knows; None where there is none."""
    if (file := bundle.manifest.draft_head) is None:
        return None
    (logits,) = (out for out in _graph(bundle.file(file)).output if out.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)  # the export wrote [R, V]


def _part(name: str) -> str:
    """Return the part of a tensor called `layers.3.qkv.data`, `head.scales`, `layers.0.ffn_norm` and so on."""
    words = name.split(".")
    return _PART_OF.get(words[2] if words[0] == "layers" else words[0], "norms")

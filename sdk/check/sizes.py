"""What the bytes of a bundle's weights are spent on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

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
        for value in ir.load(bundle.path / file).graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value.name:
                tensors[value.const_value.offset or 0] = (value.name, value.const_value.nbytes)
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
        for value in ir.load(bundle.path / file).graph.initializers.values():
            if not (isinstance(tensor := value.const_value, ir.ExternalTensor) and value.name):
                continue
            at = tensor.offset or 0
            if not any(start <= at < end for start, end in ends.items()):  # some read rows of what others read
                ends[at] = at + tensor.nbytes
                yield _part_of_variant(value.name), tensor.nbytes


def _part_of_variant(name: str) -> str:
    if name.startswith(f"{PREFILL}."):
        return "prompts in int8"
    return "cache scales" if name.endswith(("key_scales", "value_scales")) else "experts"


def draft_head_tokens(bundle: Bundle) -> int | None:
    """Return how many of the first tokens of the vocabulary the draft head knows; None where there is none."""
    if (file := bundle.manifest.draft_head) is None:
        return None
    (shape,) = (out.shape for out in ir.load(bundle.path / file).graph.outputs if out.name == "logits")
    assert shape is not None, "the export wrote [R, V]"
    num_first = shape[1]
    assert isinstance(num_first, int), "the export wrote a number"
    return num_first


def _part(name: str) -> str:
    """Return the part of a tensor called `layers.3.qkv.data`, `head.scales`, `layers.0.ffn_norm` and so on."""
    words = name.split(".")
    return _PART_OF.get(words[2] if words[0] == "layers" else words[0], "norms")

"""Whether a checkpoint holds the tensors that config.json asks for, and what it holds beside them."""

from __future__ import annotations

import re
from collections.abc import Container
from difflib import get_close_matches
from typing import Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.families import Architecture

__all__ = ["require_tensors", "unused_tensors"]

# Masks and frequencies that older programs saved: computed, not learned.
_COMPUTED: Final = re.compile(r"(^|\.)(attn\.bias|attention\.bias|masked_bias|inv_freq|embed_positions\.weights)$")
_NUMBERED: Final = re.compile(r"\.(\d+)\.")


def require_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raise CheckpointError for a tensor that is missing, has another shape, or would change what the model computes.

    The last are biases of tensors in use, layers beyond the last, and adapters that were not merged: config.json and
    the weights do not belong together then.
    """
    wanted, present = architecture.tensor_shapes(), checkpoint.tensors.names()
    for name, shape in wanted.items():
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise CheckpointError(f"{checkpoint.source} lacks the tensor {name}{hint}: fetch the checkpoint again")
        if checkpoint.tensors.shape(name) != shape:
            found = checkpoint.tensors.shape(name)
            raise CheckpointError(
                f"{name} has shape {found}, but config.json asks for {shape}: they do not belong together"
            )
    kinds = {_NUMBERED.sub(".N.", name) for name in wanted}
    for name in sorted(present - wanted.keys()):
        reason = _reason_to_refuse(name, wanted)
        if not reason and _NUMBERED.sub(".N.", name) in kinds and _is_beyond(name, architecture):
            reason = "a layer or an expert beyond those that config.json counts"
        if reason:
            raise CheckpointError(f"{checkpoint.source} holds {name}, {reason}: check config.json")


def _reason_to_refuse(name: str, wanted: Container[str]) -> str:
    if _COMPUTED.search(name):
        return ""
    if ".lora_" in name:
        return "a part of an adapter that is not merged"
    if name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in wanted:
        return "a bias that config.json does not ask for"
    return ""


def _is_beyond(name: str, architecture: Architecture) -> bool:
    """Whether the layer or the expert in a name is not there; one that is may hold what it does not use."""
    limits = [architecture.dimensions.num_layers]
    if architecture.experts is not None:
        limits.append(architecture.experts.num_experts)
    numbers = map(int, _NUMBERED.findall(name))
    return any(number >= limit for number, limit in zip(numbers, limits, strict=False))


def unused_tensors(checkpoint: Checkpoint, architecture: Architecture) -> tuple[str, ...]:
    """Return what else lies under the model's prefix and is left out, such as a head beside a tied embedding."""
    names = architecture.names
    prefix = names["embedding"].rpartition(".")[0].rpartition(".")[0]
    known = {
        _NUMBERED.sub(".N.", theirs.format(layer=0, expert=0, head=0, stream=0))
        for ours, theirs in names.items()
        if ours != "head"
    }
    left = sorted(checkpoint.tensors.names() - architecture.tensor_shapes().keys())
    return tuple(
        name
        for name in left
        if (name.startswith(prefix) or name == names["head"])
        and not _COMPUTED.search(name)
        and _NUMBERED.sub(".N.", name) not in known
    )

"""Whether a checkpoint holds the tensors that config.json asks for, and what it holds beside them."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.families import Architecture

__all__ = ["left_out", "require_tensors", "with_stored_biases"]

# Masks and frequencies that older programs saved: computed, not learned.
_COMPUTED: Final = re.compile(r"(^|\.)(attn\.bias|attention\.bias|masked_bias|inv_freq|embed_positions\.weights)$")
_NUMBERED: Final = re.compile(r"\.(\d+)\.")


def with_stored_biases(checkpoint: Checkpoint, architecture: Architecture) -> tuple[Architecture, tuple[str, ...]]:
    """Return the architecture without the biases of which the checkpoint holds none, and what is to be said about them.

    transformers takes zeros for these. Where only some layers lack one, the checkpoint is not whole.
    """
    present = {_NUMBERED.sub(".N.", name) for name in checkpoint.tensors.names()}
    names = {ours: architecture.names[f"{ours}_bias"].format(layer="N") for ours in architecture.biases}
    missing = {ours for ours, theirs in names.items() if theirs not in present}
    if not missing or not present:
        return architecture, ()
    said = f"no {min(names[ours] for ours in missing)} is stored, which config.json asks for: these biases are zeros"
    return replace(architecture, biases=architecture.biases - missing), (said,)


def require_tensors(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raise CheckpointError for a tensor that is missing, has another shape, or would change what the model computes.

    The last are adapters that were not merged, and experts beyond the last.
    """
    wanted, present = architecture.tensor_shapes(), checkpoint.tensors.names()
    if adapters := sorted(name for name in present if ".lora_" in name):
        raise CheckpointError(
            f"{checkpoint.source} holds {adapters[0]}, a part of an adapter that is not merged: save the model after "
            "PEFT's merge_and_unload; or give the base model here, and the adapter with --lora"
        )
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
    for name in sorted(present - wanted.keys()):
        if _is_extra_expert(name, architecture):
            raise CheckpointError(
                f"{checkpoint.source} holds {name}, an expert beyond those that config.json counts: check config.json"
            )


def _is_extra_expert(name: str, architecture: Architecture) -> bool:
    if architecture.experts is None or (layer := _layer(name, architecture)) is None:
        return False
    names = (theirs for ours, theirs in architecture.names.items() if ours.startswith("expert_"))
    patterns = (re.escape(theirs.format(layer=layer, expert="EXPERT")).replace("EXPERT", r"(\d+)") for theirs in names)
    found = (re.fullmatch(pattern, name) for pattern in patterns)
    return any(match is not None and int(match[1]) >= architecture.experts.num_experts for match in found)


def _layer(name: str, architecture: Architecture) -> int | None:
    """The number of the layer that a tensor belongs to, None for one outside of layers."""
    start = architecture.names["o"].partition("{layer}")[0]
    match = re.match(r"(\d+)\.", name.removeprefix(start))
    return int(match[1]) if match and name.startswith(start) else None


def left_out(checkpoint: Checkpoint, architecture: Architecture) -> tuple[str, ...]:
    """Say what else is stored and left out, as transformers does: layers beyond the last, biases, other tensors.

    Tensors beside the model, such as those of a vision tower, pass in silence; so does a head that is the embedding.
    """
    wanted, num_layers = architecture.tensor_shapes(), architecture.dimensions.num_layers
    left = [name for name in sorted(checkpoint.tensors.names() - wanted.keys()) if not _COMPUTED.search(name)]
    layers = {name: layer for name in left if (layer := _layer(name, architecture)) is not None and layer >= num_layers}
    biases = [name for name in left if name not in layers and _is_bias_of(name, wanted)]
    others = [name for name in left if name not in layers and name not in biases and _is_other(name, architecture)]
    remarks = []
    if layers:
        many = f"{num_layers} of the {max(layers.values()) + 1} layers that are stored"
        remarks.append(f"config.json counts {many}: the model ends there")
    if biases:
        remarks.append(f"config.json asks for no biases like {biases[0]}: {len(biases)} are stored and left out")
    if others:
        remarks.append(f"{len(others)} tensors are not part of the model and left out: {', '.join(others[:3])}")
    return tuple(remarks)


def _is_bias_of(name: str, wanted: Container[str]) -> bool:
    return name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in wanted


def _is_other(name: str, architecture: Architecture) -> bool:
    """Whether a tensor lies under the model's prefix, and is of no kind that the model has."""
    names = architecture.names
    prefix = names["final_norm"].rpartition(".")[0].rpartition(".")[0]
    known = {_NUMBERED.sub(".N.", theirs.format(layer=0, expert=0, head=0, stream=0)) for theirs in names.values()}
    return name.startswith(prefix) and _NUMBERED.sub(".N.", name) not in known

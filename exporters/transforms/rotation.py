"""Rotated models: the same function, with weights and activations in which no channel stands out.

Shapes: E hidden size, H heads, K kv heads, D head size. Source: QuaRot (Ashkboos et al., 2024), its rotations R1 of
the stream and R2 of the values of each head; those that need work at run time are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.readers import norm_readers, value_rows, writers
from skipstone.exporters.transforms.transform import Transform
from skipstone.exporters.transforms.weight_changes import Change, WeightChanges, read_tensor
from skipstone.quant import Turn

__all__ = ["Rotation"]

Floats: TypeAlias = NDArray[np.float32]
_HEAD_TURN: Final = "rotation.head_turn"


@dataclass(frozen=True, slots=True)
class Rotation(Transform):
    """Turns the stream, and with `heads` the values of each head, by random Hadamard matrices; `seed` chooses them.

    Gains of norms are multiplied into the matrices behind them first. Where embedding and head are one matrix they stay
    one: what the head reads is multiplied by R' diag(gain) R, [E, E], for E * E further weights. Values that a model
    clips are not turned. Integers of the checkpoint become numbers.
    """

    seed: int = 0
    heads: bool = True

    def __str__(self) -> str:
        return f"rotation with seed {self.seed}"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel unless every block reads the stream through an RMS norm and adds to it directly."""
        a = architecture
        reasons = {
            "norms subtract the mean": a.norm != "rms",
            "it has several streams": a.altup is not None,
            "what its blocks add is normed": a.has("attention_out_norm") or a.has("ffn_out_norm"),
            "its blocks read the stream without a norm": not a.has("attention_norm"),
            "it is rotated already": a.has("head_turn"),
        }
        for reason, holds in reasons.items():
            if holds:
                raise UnsupportedModel(f"a {a.family} cannot be rotated, as {reason}: leave the rotation out")

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        """Return the turned model."""
        rng = np.random.default_rng(self.seed)
        turned, d = WeightChanges(tensors, architecture), architecture.dimensions
        stream = Turn.random(d.hidden_size, rng)
        for layer in range(d.num_layers):
            for norm, names in norm_readers(architecture, layer).items():
                _fold(turned, tensors, architecture, norm, names, layer, stream)
            for name in writers(architecture, layer):
                turned.note(name, layer, lambda matrix: stream(matrix.T).T)
                if name in architecture.biases:
                    turned.note(f"{name}_bias", layer, stream)
            if self.heads and architecture.qkv_clip is None and architecture.has_attention(layer):
                _turn_values(turned, architecture, layer, Turn.random(d.head_size, rng))
        for name in filter(architecture.has, ("embedding", "positions")):
            turned.note(name, 0, stream)
        return _with_head(turned, tensors, architecture, stream), turned

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        """Return config.json as it is. Raises: UnsupportedModel for a tied head, as transformers cannot turn it."""
        if architecture.has("head_turn"):
            raise UnsupportedModel("transformers has no rotated model whose head is the embedding; leave --check out")
        return config


def _fold(
    turned: WeightChanges,
    tensors: TensorSource,
    architecture: Architecture,
    norm: str,
    names: tuple[str, ...],
    layer: int,
    turn: Turn,
) -> None:
    """Note that matrices take over the gain of a norm, which becomes 1, and are turned."""

    def fold(matrix: Floats) -> Floats:
        return turn(matrix * _gain(tensors, architecture, norm, layer))

    for name in names:
        turned.note(name, layer, fold)
    turned.note(norm, layer, _ones(architecture))


def _gain(tensors: TensorSource, architecture: Architecture, norm: str, layer: int = 0) -> NDArray[np.float64]:
    return read_tensor(tensors, architecture, norm, layer).astype(np.float64) + architecture.norm_offset


def _ones(architecture: Architecture) -> Change:
    return lambda gain: np.full_like(gain, 1 - architecture.norm_offset)


def _turn_values(turned: WeightChanges, architecture: Architecture, layer: int, turn: Turn) -> None:
    """Note that the values of each head are turned, and turned back where heads are joined."""
    name, rows = value_rows(architecture)
    size = architecture.dimensions.head_size

    def turn_rows(values: Floats) -> Floats:
        """Turn the rows [..] or [.., E] of values."""
        turned_rows = values.copy()
        columns = np.moveaxis(values[rows].reshape(-1, size, *values.shape[1:]), 1, -1)
        turned_rows[rows] = np.moveaxis(turn(columns), -1, 1).reshape(len(rows), *values.shape[1:])
        return turned_rows

    turned.note(name, layer, turn_rows)
    if name in architecture.biases:
        turned.note(f"{name}_bias", layer, turn_rows)
    turned.note("o", layer, lambda matrix: turn(matrix.reshape(-1, size)).reshape(matrix.shape))


def _with_head(turned: WeightChanges, tensors: TensorSource, architecture: Architecture, turn: Turn) -> Architecture:
    """Note the change of the head, and return the architecture with it."""
    if not architecture.tied_embedding:
        _fold(turned, tensors, architecture, "final_norm", ("head",), 0, turn)
        return architecture
    turned.note("final_norm", 0, _ones(architecture))
    size = architecture.dimensions.hidden_size

    def head_turn() -> Floats:
        gain = _gain(tensors, architecture, "final_norm")
        return turn(turn(np.diag(gain)).T)

    turned.add(_HEAD_TURN, (size, size), head_turn)
    return replace(architecture, names={**architecture.names, "head_turn": _HEAD_TURN})

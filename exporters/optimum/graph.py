"""What a graph in optimum's layout takes and gives, and whether it can decode.

Shapes: B batch, T tokens, P cached tokens, S = P + T, K kv heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.devices import Session, open_device
from skipstone.errors import UnsupportedModel
from skipstone.runtime.bundle import LayerCache

__all__ = ["WrappedGraph"]

TOKEN_INPUTS = ("input_ids", "attention_mask", "position_ids")
PAST = "past_key_values."
# A prompt, a single token, a draft: the kinds of call that decoding makes.
PIECES = (4, 1, 3)
TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedGraph:
    """A decoder whose call takes the caches of all layers and gives them back, T rows longer.

    Inputs: input_ids [B, T]; where it wants them attention_mask [B, S] and position_ids [B, T]; past_key_values.i.key
    and .value [B, K, P, D]. Outputs: logits [B, T, V]; present.i.key and .value [B, K, S, D].
    """

    token_inputs: tuple[str, ...]
    layers: tuple[LayerCache, ...]
    vocab_size: int

    @classmethod
    def read(cls, graph: ir.Graph) -> WrappedGraph:
        """Return what the names and shapes of a graph say. Raises: UnsupportedModel for another layout, by name."""
        inputs = {str(value.name): value for value in graph.inputs}
        outputs = {str(value.name): value for value in graph.outputs}
        pasts = [name for name in inputs if name.startswith(PAST)]
        known = {*TOKEN_INPUTS, *(f"{PAST}{name}" for layer in range(len(pasts) // 2) for name in _names(layer))}
        if unknown := sorted(inputs.keys() - known):
            raise UnsupportedModel(f"the graph of optimum wants {', '.join(unknown)}, which decoding does not give")
        layers = tuple(_layer(inputs, layer) for layer in range(len(pasts) // 2))
        wanted = ["logits", *(f"present.{name}" for layer in range(len(layers)) for name in _names(layer))]
        for name in ("input_ids", *wanted):
            if name not in inputs and name not in outputs:
                raise UnsupportedModel(f"the graph of optimum has no {name}; it must be a decoder with a cache")
        if not layers:
            raise UnsupportedModel(f"the graph of optimum has no {PAST}0.key; it must be a decoder with a cache")
        return cls(
            token_inputs=tuple(name for name in TOKEN_INPUTS if name in inputs),
            layers=layers,
            vocab_size=_size(outputs["logits"], 2, rank=3),
        )

    def require_same_in_pieces(self, file: Path) -> None:
        """Raise UnsupportedModel unless the graph in `file` gives a text in pieces the logits that it gives it whole.

        Tracing can freeze a length or a branch into a graph; here that shows. Cost: opens the graph, four short calls.
        """
        token_ids = np.linspace(0, self.vocab_size - 1, sum(PIECES)).astype(np.int64)
        try:
            session = open_device().open_session(file)
            whole, pieces = (self._logits(session, token_ids, sizes) for sizes in ([sum(PIECES)], PIECES))
        except Exception as error:  # onnxruntime's errors have no base of their own
            reason = " ".join(str(error).split())
            raise UnsupportedModel(f"the graph of optimum cannot read a text in pieces: {reason}") from error
        if not np.isfinite(whole).all():
            raise UnsupportedModel("the graph of optimum gives logits that are no numbers; check the checkpoint")
        difference = float(np.abs(whole - pieces).max() / np.abs(whole).max())
        if difference > TOLERANCE:
            raise UnsupportedModel(
                f"the graph of optimum gives a text in pieces other logits than in one, off by {difference:.1e} of the "
                f"largest where {TOLERANCE:.0e} is allowed: it is frozen to the shapes that it was traced with"
            )

    def _logits(self, session: Session, token_ids: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.float32]:
        """Return logits [T, V] after each of `token_ids`, fed in pieces of these sizes."""
        found, start = list[NDArray[np.float32]](), 0
        names = [name for layer in range(len(self.layers)) for name in _names(layer)]
        caches = [
            np.zeros((1, layer.num_heads, 0, layer.head_size), np.float32) for layer in self.layers for _ in range(2)
        ]
        for size in sizes:
            end = start + size
            known = {
                "input_ids": token_ids[None, start:end],
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end)[None],
            }
            feeds: dict[str, NDArray[np.generic]] = {name: known[name] for name in self.token_inputs}
            feeds |= {f"{PAST}{name}": cache for name, cache in zip(names, caches, strict=True)}
            logits, *caches = session.run(["logits", *(f"present.{name}" for name in names)], feeds)
            found.append(logits[0])
            start = end
            for cache in caches:
                if cache.shape[2] != end:
                    raise ValueError(f"after {end} tokens a cache holds {cache.shape[2]} rows")
        return np.concatenate(found)


def _names(layer: int) -> tuple[str, str]:
    return f"{layer}.key", f"{layer}.value"


def _layer(inputs: Mapping[str, ir.Value], layer: int) -> LayerCache:
    """Return how one layer keeps its keys and values, which must have the same sizes."""
    found = set()
    for name in _names(layer):
        value = inputs[f"{PAST}{name}"]
        if value.dtype != ir.DataType.FLOAT:
            raise UnsupportedModel(f"{PAST}{name} of the graph of optimum is {value.dtype}, only FLOAT is supported")
        found.add((_size(value, 1, rank=4), _size(value, 3, rank=4)))
    if len(found) > 1:
        raise UnsupportedModel(f"layer {layer} keeps keys and values of other sizes, {sorted(found)}; not supported")
    ((num_heads, head_size),) = found
    return LayerCache(num_heads=num_heads, head_size=head_size, dtype="float32")


def _size(value: ir.Value, axis: int, *, rank: int) -> int:
    """Return one size of a tensor that must have `rank` dimensions, this one fixed."""
    shape = value.shape
    if shape is None or len(shape) != rank or not isinstance(shape[axis], int):
        wanted = f"{rank} dimensions are wanted, the one numbered {axis} fixed"
        raise UnsupportedModel(f"{value.name} of the graph of optimum has shape {shape}; {wanted}")
    size = shape[axis]
    assert isinstance(size, int)
    return size

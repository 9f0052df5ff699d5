"""The checkpoint's tensors under our names, in the order of rows and columns that the graph wants.

Heads are padded to a size that the kernel takes, and channels that turn together are put where rotary looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints import TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.graph.head_channels import head_order, kernel_head_size, rows_of_heads
from skipstone.quant import Matrix, scale, stack, take_rows, without_offsets

__all__ = ["ModelWeights"]

Floats: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = NDArray[np.int64]


class ModelWeights:
    """Reads one tensor at a time; nothing stays in memory. `on_read` gets the number of parameters of each."""

    def __init__(self, architecture: Architecture, tensors: TensorSource, on_read: Callable[[int], None]) -> None:
        self._architecture, self._tensors, self._on_read = architecture, tensors, on_read
        self._shapes = architecture.tensor_shapes()

    def read(self, name: str, layer: int = 0, **place: int) -> Floats:
        """Return one tensor as numbers; a matrix has its outputs first. `place` is the `expert` or `head`."""
        theirs = self._architecture.names[name].format(layer=layer, **place)
        array = self._tensors.read(theirs, self._shapes[theirs])
        self._on_read(array.size)
        return array.T if self._architecture.is_transposed(name) else array

    def matrix(self, name: str, layer: int = 0, **place: int) -> Matrix:
        """Return one matrix [N, K] as integers where the checkpoint holds such, else as numbers."""
        if not self.keeps_integers(name, layer, **place):
            return self.read(name, layer, **place)
        theirs = self._architecture.names[name].format(layer=layer, **place)
        rows, columns = self._shapes[theirs]
        self._on_read(rows * columns)
        return self._tensors.read_quantized(theirs, (rows, columns))

    def keeps_integers(self, name: str, layer: int = 0, **place: int) -> bool:
        """Whether `matrix` gives the integers that the checkpoint holds."""
        theirs = self._architecture.names[name].format(layer=layer, **place)
        return self._tensors.is_quantized(theirs) and not self._architecture.is_transposed(name)

    def bias(self, name: str, layer: int = 0) -> Floats | None:
        """Return the bias of a tensor; None where it has none."""
        return self.read(f"{name}_bias", layer) if name in self._architecture.biases else None

    def _bias_or_zeros(self, name: str, layer: int) -> Floats:
        """Return the bias of a matrix whose rows stand beside those of others; zeros where it alone has none."""
        bias = self.bias(name, layer)
        if bias is not None:
            return bias
        rows, columns = self._shapes[self._architecture.names[name].format(layer=layer)]
        return np.zeros(columns if self._architecture.is_transposed(name) else rows, np.float32)

    def gain(self, name: str, layer: int = 0) -> Floats:
        """Return the gain [E] of a norm over the stream."""
        return self.read(name, layer) + np.float32(self._architecture.norm_offset)

    def final_norm(self) -> tuple[Floats, Floats | None]:
        """Return gain and bias of the last norm; the scale of the logits, and their cap, are multiplied in."""
        factor = np.float32(self._architecture.logit_scale / (self._architecture.logit_cap or 1.0))
        bias = self.bias("final_norm")
        return self.gain("final_norm") * factor, None if bias is None else bias * factor

    def embedding(self) -> Matrix:
        """Return the embeddings of all tokens, [V, E]."""
        return self.matrix("embedding")

    def head(self) -> Matrix:
        """Return the matrix from hidden states to logits, [V, E]; tied, it is the embedding."""
        return self.matrix("embedding" if self._architecture.tied_embedding else "head")

    def qkv(self, layer: int) -> list[Matrix]:
        """Return the projections of queries, keys and values, one under the other [(H + 2K) * D, E].

        A layer that reads the cache of another has queries only, [H * D, E].
        """
        rows = self._qkv_rows(layer)
        if self._architecture.has("qkv"):
            return [take_rows(self.matrix("qkv", layer), np.concatenate(rows))]
        matrices = [self.matrix(name, layer) for name in self._projections(layer)]
        if self._architecture.head_norm == "layer":
            matrices[:2] = [self._centred(matrix) for matrix in matrices[:2]]
        return stack([take_rows(matrix, own) for matrix, own in zip(matrices, rows, strict=False)])

    def qkv_bias(self, layer: int) -> Floats | None:
        """Return their biases [(H + 2K) * D]; None where none has one."""
        rows, biases = self._qkv_rows(layer), self._architecture.biases
        if "qkv" in biases:
            return _numbers(take_rows(self.read("qkv_bias", layer), np.concatenate(rows)))
        projections = self._projections(layer)
        if biases.isdisjoint(projections):
            return None
        parts: list[Matrix] = [self._bias_or_zeros(name, layer) for name in projections]
        if self._architecture.head_norm == "layer":
            parts[:2] = [self._centred(part) for part in parts[:2]]
        return np.concatenate([_numbers(take_rows(part, own)) for part, own in zip(parts, rows, strict=False)])

    def _projections(self, layer: int) -> tuple[str, ...]:
        """Return what a layer projects; one that reads the cache of another has queries only."""
        return ("q", "k", "v") if self._architecture.cache_owner(layer) == layer else ("q",)

    def _centred(self, matrix: Matrix) -> Matrix:
        """Return a projection whose heads have the mean 0, so that a LayerNorm of each becomes an RMS norm."""
        if not isinstance(matrix, np.ndarray):
            raise UnsupportedModel(
                f"{self._architecture.family}: integers cannot be carried over where each head has a LayerNorm; "
                "take the checkpoint as it was before quantization"
            )
        heads = matrix.reshape(-1, self._architecture.dimensions.head_size, *matrix.shape[1:])
        centred: Floats = (heads - heads.mean(axis=1, keepdims=True)).reshape(matrix.shape)
        return centred

    def head_gain(self, name: str, layer: int) -> Floats:
        """Return the gain of `q_norm` or `k_norm`, under which a norm over padded heads equals that over the real ones.

        [D] where all heads share it, else [heads, D] or [heads * D]; D is the padded size.
        """
        a = self._architecture
        if a.head_norm == "layer":
            num_heads = a.dimensions.num_heads if name == "q_norm" else a.dimensions.num_kv_heads
            gain = np.concatenate([self.read(name, layer, head=head) for head in range(num_heads)])
        else:
            gain = self.gain(name, layer)
        order = self._turning_order(layer)
        padded = _numbers(take_rows(gain, rows_of_heads(np.arange(0, len(gain), a.dimensions.head_size), order)))
        padded = padded * np.float32((a.dimensions.head_size / len(order)) ** 0.5)
        return padded.reshape(-1, len(order)) if a.head_norm == "layer" else padded

    def output(self, layer: int) -> Matrix:
        """Return the projection after attention, [E, H * D]; only integers have heads that are not padded."""
        matrix, size = self.matrix("o", layer), self._architecture.dimensions.head_size
        padded = kernel_head_size(size)
        if padded > size and isinstance(matrix, np.ndarray):
            heads = matrix.reshape(len(matrix), -1, size)
            matrix = np.pad(heads, [(0, 0), (0, 0), (0, padded - size)]).reshape(len(matrix), -1)
        return scale(matrix, self._architecture.residual_scale)

    def inner(self, layer: int) -> list[Matrix]:
        """Return what leads into the FFN: gate and up, one under the other [2 * I, E], or up alone [I, E]."""
        if self._architecture.carved_ffn(layer) is not None:
            return [self.alternating_inner(layer)]
        if self._architecture.has("gate_up"):
            return [self.matrix("gate_up", layer)]
        names = ("gate", "up") if self._architecture.has("gate") else ("up",)
        return stack([self.matrix(name, layer) for name in names])

    def alternating_inner(self, layer: int) -> Floats:
        """Return gate and up of a carved FFN, whose rows alternate, [2 * I, E]."""
        names = ("gate_up",) if self._architecture.has("gate_up") else ("gate", "up")
        return _alternating(np.concatenate([self.read(name, layer) for name in names]))

    def inner_bias(self, layer: int) -> Floats | None:
        """Return the biases of what leads into the FFN [2 * I] or [I]; None where it has none."""
        parts = [name for name in ("gate", "up") if self._architecture.has(name)]
        if self._architecture.biases.isdisjoint(parts):
            return None
        bias = np.concatenate([self._bias_or_zeros(name, layer) for name in parts])
        return bias if self._architecture.carved_ffn(layer) is None else _alternating(bias)

    def expert_gain(self, layer: int) -> Floats:
        """Return by what the neurons are multiplied that score the experts of a carved FFN [R].

        It is stored for columns of length 1: whatever was folded into them, scores stay.
        """
        carved = self._architecture.carved_ffn(layer)
        assert carved is not None, "the FFN is carved"
        neurons = slice(carved.first_shared, carved.first_shared + carved.num_routed)
        lengths: Floats = np.linalg.norm(self.read("down", layer)[:, neurons], axis=0)
        return self.read("expert_gain", layer) * lengths

    def expert_rest(self, layer: int) -> Floats:
        """Return what stands in for each expert of a carved FFN that is left out, [R, E]."""
        return self.read("expert_rest", layer).T * np.float32(self._architecture.residual_scale)

    def down(self, layer: int) -> Matrix:
        """Return what leads out of the FFN, [E, I]."""
        return scale(self.matrix("down", layer), self._architecture.residual_scale)

    def scaled_bias(self, name: str, layer: int) -> Floats | None:
        """Return the bias of what is added to the stream."""
        bias = self.bias(name, layer)
        return None if bias is None else bias * np.float32(self._architecture.residual_scale)

    def expert_inner(self, layer: int, expert: int) -> Matrix:
        """Return gate and up of one expert, one under the other [2 * I, E]."""
        stacked = stack([self.matrix(name, layer, expert=expert) for name in ("expert_gate", "expert_up")])
        if len(stacked) > 1:
            return np.concatenate([self.read(name, layer, expert=expert) for name in ("expert_gate", "expert_up")])
        return without_offsets(stacked[0])

    def expert_down(self, layer: int, expert: int) -> Matrix:
        """Return what leads out of one expert, [E, I]."""
        down = scale(self.matrix("expert_down", layer, expert=expert), self._architecture.residual_scale)
        return without_offsets(down)

    def _turning_order(self, layer: int) -> Rows:
        """Return for each channel of a padded head of queries and keys the channel of the checkpoint's, or -1."""
        rotary = self._architecture.rotaries[layer]
        return head_order(self._architecture.dimensions.head_size, 0 if rotary is None else rotary.size)

    def _qkv_rows(self, layer: int) -> tuple[Rows, Rows, Rows]:
        """Return which rows of the checkpoint's matrix, or matrices, are those of queries, keys and values."""
        turning, as_it_is = self._turning_order(layer), head_order(self._architecture.dimensions.head_size, 0)
        query, key, value = self._architecture.head_starts()
        return rows_of_heads(query, turning), rows_of_heads(key, turning), rows_of_heads(value, as_it_is)


def _alternating(halves: Floats) -> Floats:
    """Return rows of two halves in turn."""
    return halves[np.arange(len(halves)).reshape(2, -1).T.ravel()]


def _numbers(matrix: Matrix) -> Floats:
    assert isinstance(matrix, np.ndarray), "vectors are never quantized"
    return matrix

"""The blocks of a decoder over several streams: each layer computes one of them and carries the others along.

Shapes: B batch, T tokens, W tokens blended in one position, A streams, E hidden size, P size of the input that a layer
has of its own, F inner width of the FFN, K kv heads, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import onnx_ir as ir

from skipstone.exporters.families import AltUp, Architecture
from skipstone.exporters.graph.attention import Attention
from skipstone.exporters.graph.blocks import Blocks, Residual
from skipstone.exporters.graph.head_channels import kernel_head_size
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.step_inputs import StepInputs
from skipstone.exporters.graph.variant import PLAIN, GraphVariant
from skipstone.quant import Recipe, scale, stack

__all__ = ["AltUpBlocks"]

LEAST_SQUARE = 1e-5  # a vector whose mean square is smaller is not made as large as another
HALF = 2.0**-0.5  # of each of two vectors: their sum is then as large as one


class SharingAttention(Attention):
    """Attention whose later layers read the caches of earlier ones, and whose values are normed."""

    def _parts(self, qkv: ir.Value, layer: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Norm values too. Where another layer owns the cache there are queries only: keys and values have no rows."""
        pen, d = self._pen, self._architecture.dimensions
        size = kernel_head_size(d.head_size)
        if self._architecture.cache_owner(layer) != layer:
            borders = {"start": [0, 0], "end": [0, d.num_kv_heads * size], "axis": [1, 2]}
            ends = (pen.constant(f"no_rows_{key}", np.array(at)) for key, at in borders.items())
            no_rows = pen.op("Slice", qkv, *ends)  # [B, 0, K * D]
            return self._norm_rows(qkv, "q_norm", layer), no_rows, no_rows
        query, key, value = super()._parts(qkv, layer)
        gain = pen.constant("value_gain", np.full(size, (d.head_size / size) ** 0.5, np.float32))
        return query, key, self._norm_heads(value, gain)


class AltUpBlocks(Blocks):
    """Writes a decoder whose `Residual` is all streams, [B, T, A, E].

    All of it goes to one graph: the inputs of layers are made with the embedding, and later layers read the keys and
    values of earlier ones.
    """

    def __init__(
        self,
        kernels: Kernels,
        architecture: Architecture,
        weights: ModelWeights,
        recipe: Recipe,
        variant: GraphVariant = PLAIN,
    ) -> None:
        super().__init__(kernels, architecture, weights, recipe, variant)
        self._attention = SharingAttention(kernels, architecture, weights, self._linear, variant.cache_scales)
        assert architecture.altup is not None, "other architectures have one stream"
        self._altup: AltUp = architecture.altup
        self._inputs: Sequence[ir.Value] = ()  # one per layer, [B, T, P]

    def embed(self, token_ids: ir.Value, blend: ir.Value | None, step: StepInputs) -> Residual:
        """[B, T, W] ids and their weights to the embedding and the streams made of it, [B, T, A, E]."""
        pen, others = self._pen, self._altup.num_streams - 1
        embedding = super().embed(token_ids, blend, step).stream
        self._inputs = self._layer_inputs(token_ids, blend, embedding)
        first = pen.op("Unsqueeze", embedding, self._axis(2))
        made = self._linear(
            embedding,
            "altup.into_stream",
            lambda: stack([self._weights.matrix("into_stream", stream=stream) for stream in range(others)]),
        )
        made = pen.op("Reshape", made, self._shape(0, 0, others, -1))
        return Residual(pen.op("Concat", first, self._resized(made, like=first), axis=2))

    def _layer_inputs(self, token_ids: ir.Value, blend: ir.Value | None, embedding: ir.Value) -> Sequence[ir.Value]:
        """Return the input of each layer, [B, T, P]: from a table of its own, and from the embedding."""
        pen, w, size = self._pen, self._weights, self._altup.per_layer_size
        rows = self._linear.rows(
            "per_layer_embedding", self._in_table(token_ids), lambda: w.matrix("per_layer_embedding")
        )
        found = self._blended(rows, blend, "per_layer_scale", size**0.5 * HALF)
        factor = self._architecture.dimensions.hidden_size**-0.5
        projected = self._linear(
            embedding, "altup.per_layer_projection", lambda: [scale(w.matrix("per_layer_projection"), factor)]
        )
        by_layer = Residual(pen.op("Reshape", projected, self._shape(0, 0, -1, size)))
        normed, _ = self.norm(by_layer, "per_layer_norm", w.gain("per_layer_norm") * np.float32(HALF), None)
        both = pen.op("Add", pen.op("Reshape", normed, self._shape(0, 0, -1)), found)
        return self._split(both, self._architecture.dimensions.num_layers, axis=-1)

    def _in_table(self, token_ids: ir.Value) -> ir.Value:
        """Return the ids with 0 for those beyond the table."""
        size = self._altup.per_layer_vocab_size
        if self._architecture.dimensions.vocab_size <= size:
            return token_ids
        limit, zero = self._pen.constant("table_size", np.array(size)), self._pen.constant("id_0", np.array(0))
        return self._pen.op("Where", self._pen.op("Less", token_ids, limit), token_ids, zero)

    def add_up(self, residual: Residual) -> ir.Value:
        """Return the mean of the first stream and of what the others give back to it, [B, T, E]."""
        first, *others = self._split(residual.stream, self._altup.num_streams, axis=2)
        back = [self._resized(self._back(stream, index), like=first) for index, stream in enumerate(others)]
        return self._pen.op("Squeeze", self._pen.op("Mean", first, *back), self._axis(2))

    def _back(self, stream: ir.Value, index: int) -> ir.Value:
        matrix = functools.partial(self._weights.matrix, "from_stream", stream=index)
        return self._linear(stream, f"altup.from_stream.{index}", lambda: [matrix()], rank=4)

    def _resized(self, x: ir.Value, *, like: ir.Value) -> ir.Value:
        """Return vectors [..., E] of the same directions, as large as those of `like`."""
        pen = self._pen
        square = pen.op("Max", self._mean_square(x), self._pen.number("least_square", LEAST_SQUARE))
        return pen.op("Mul", x, pen.op("Sqrt", pen.op("Div", self._mean_square(like), square)))

    def layer(self, residual: Residual, layer: int, step: StepInputs) -> Residual:
        """Predict all streams, compute the active one, correct all by what came out, then add the layer's input."""
        pen = self._pen
        predicted = self._predict(residual.stream, layer)
        active = self._active(predicted)
        normed, _ = self._enter(Residual(active), "attention_norm", layer)
        update = self._leave(self._attention(normed, layer, step), "attention_out_norm", layer)
        together = pen.op("Sum", active, update, normed, self._laurel(normed, layer))
        halved = pen.op("Mul", together, self._pen.number("half", HALF))
        normed, _ = self._enter(Residual(halved), "ffn_norm", layer)
        computed = pen.op("Add", halved, self._leave(self.feed_forward(normed, layer), "ffn_out_norm", layer))
        return Residual(self._add_input(self._correct(predicted, active, computed, layer), layer))

    def _predict(self, streams: ir.Value, layer: int) -> ir.Value:
        """Add to each stream a mixture of all, by how the router sees the active one."""
        pen, size = self._pen, self._altup.num_streams
        mixture = self._small(self._routed(self._active(streams), layer), "prediction", layer)
        itself = pen.constant("each_stream_itself", np.eye(size, dtype=np.float32).ravel())
        weights = pen.op("Reshape", pen.op("Add", mixture, itself), self._shape(0, 0, size, size))
        return pen.op("MatMul", weights, streams)

    def _correct(self, predicted: ir.Value, active: ir.Value, computed: ir.Value, layer: int) -> ir.Value:
        """Add to each stream a part of what the layer gave beyond the prediction `active`."""
        pen = self._pen
        part = self._small(self._routed(computed, layer), "correction", layer)
        part = pen.op("Unsqueeze", pen.op("Add", part, self._pen.number("one", 1.0)), self._axis(3))
        surprise = pen.op("Unsqueeze", pen.op("Sub", computed, active), self._axis(2))
        return pen.op("Add", predicted, pen.op("Mul", part, surprise))

    def _add_input(self, streams: ir.Value, layer: int) -> ir.Value:
        """Add to all streams but the first the layer's input, as far as the active one lets it through."""
        pen, w = self._pen, self._weights
        active = self._active(streams)
        if self._altup.scaled:
            scales = pen.weight(f"layers.{layer}.altup.stream_scale", lambda: w.read("stream_scale", layer))
            active = pen.op("Mul", active, scales)
        gate = self._activate(self._product(active, "per_layer_gate", layer))
        update = self._product(pen.op("Mul", gate, self._inputs[layer]), "per_layer_out", layer)
        update = pen.op("Unsqueeze", self._leave(update, "per_layer_out_norm", layer), self._axis(2))
        others = np.arange(self._altup.num_streams)[:, None] > 0
        return pen.op("Add", streams, pen.op("Mul", update, pen.constant("others", others.astype(np.float32))))

    def _laurel(self, x: ir.Value, layer: int) -> ir.Value:
        """Return a learned part of the residual, [B, T, E]: x times a matrix of low rank, normed."""
        left = self._product(x, "laurel_left", layer)
        return self._leave(self._product(left, "laurel_right", layer), "laurel_norm", layer)

    def _active(self, streams: ir.Value) -> ir.Value:
        return self._pen.op("Gather", streams, self._pen.constant("active", np.array(self._altup.active)), axis=2)

    def _routed(self, x: ir.Value, layer: int) -> ir.Value:
        """[B, T, E] to what decides how streams mix, [B, T, A]."""
        pen, a, w = self._pen, self._architecture, self._weights
        size = np.float32(a.dimensions.hidden_size)
        gain = pen.weight(f"layers.{layer}.stream_norm", lambda: w.gain("stream_norm", layer) / size)
        normed = self._kernels.norm("rms", x, gain, epsilon=a.norm_epsilon)
        return pen.op("Tanh", self._small(normed, "stream_router", layer))

    def _gate(self, x: ir.Value, layer: int) -> ir.Value:
        """Keep of the gates [B, T, F] what lies above the quantile, were they normal, and activate that."""
        pen, sparsity = self._pen, self._altup.sparsities[layer]
        if sparsity == 0:
            return super()._gate(x, layer)
        centred = pen.op("Sub", x, pen.op("ReduceMean", x, self._axis(-1), keepdims=1))
        deviation = pen.op("Sqrt", self._mean_square(centred))
        quantile = self._pen.number(f"quantile_{sparsity}", NormalDist().inv_cdf(sparsity))
        return self._activate(pen.op("Relu", pen.op("Sub", centred, pen.op("Mul", deviation, quantile))))

    # Shapes and numbers

    def _product(self, x: ir.Value, name: str, layer: int) -> ir.Value:
        """Multiply by a matrix of a layer, stored as the recipe says."""
        return self._linear(x, f"layers.{layer}.altup.{name}", lambda: [self._weights.matrix(name, layer)])

    def _small(self, x: ir.Value, name: str, layer: int) -> ir.Value:
        """Multiply by a matrix that stays in numbers: it is small, and all streams depend on it."""
        matrix = self._pen.weight(f"layers.{layer}.altup.{name}", lambda: self._weights.read(name, layer).T)
        return self._pen.op("MatMul", x, matrix)

    def _mean_square(self, x: ir.Value) -> ir.Value:
        return self._pen.op("ReduceMean", self._pen.op("Mul", x, x), self._axis(-1), keepdims=1)

    def _split(self, x: ir.Value, count: int, *, axis: int) -> Sequence[ir.Value]:
        return self._pen.op_outputs("Split", x, count=count, axis=axis, num_outputs=count)

    def _axis(self, axis: int) -> ir.Value:
        return self._pen.constant(f"axis_{axis}", np.array([axis], np.int64))

    def _shape(self, *sizes: int) -> ir.Value:
        return self._pen.constant(f"shape_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))

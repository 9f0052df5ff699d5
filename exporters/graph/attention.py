"""Attention as ONNX nodes: the fused projection, norms of heads, the kernel with its cache, and the way out.

Shapes: B batch, T tokens, E hidden size, H heads, K kv heads, D padded head size, C cache capacity, S total length
(cached and new tokens).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from skipstone.exporters.families import Architecture
from skipstone.exporters.graph.head_channels import kernel_head_size
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.linear import Linear
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.step_inputs import AttentionLayer, StepInputs
from skipstone.exporters.graph.variant import CacheScales

__all__ = ["Attention"]


class Attention:
    """Writes the attention of the layers of one architecture to one graph."""

    def __init__(
        self,
        kernels: Kernels,
        architecture: Architecture,
        weights: ModelWeights,
        linear: Linear,
        cache_scales: CacheScales | None = None,
    ) -> None:
        """With `cache_scales` the caches hold integers."""
        self._kernels, self._pen, self._cache_scales = kernels, kernels.pen, cache_scales
        self._architecture, self._weights, self._linear = architecture, weights, linear
        self._caches: dict[int, Sequence[ir.Value]] = {}  # by layer, for those that share them

    def __call__(self, x: ir.Value, layer: int, step: StepInputs) -> ir.Value:
        """[B, T, E] to [B, T, E] update; reads and writes the layer's cache."""
        w, mixed = self._weights, self._pen.some_rows(self.mix(x, layer, step), step.token_rows)
        if w.keeps_integers("o", layer):  # their blocks cannot be filled up with zeros
            mixed = self._real_channels(mixed)
        return self._linear(mixed, f"layers.{layer}.o", lambda: [w.output(layer)], w.scaled_bias("o", layer))

    def mix(self, x: ir.Value, layer: int, step: StepInputs) -> ir.Value:
        """[B, T, E] to what attention mixes [B, A, H * D]; reads and writes the layer's cache."""
        w, has_parts = self._weights, self._architecture.head_norm != "none" or self._architecture.qkv_clip is not None
        qkv = self._linear(x, f"layers.{layer}.qkv", lambda: w.qkv(layer), w.qkv_bias(layer))
        qkv = self._pen.some_rows(qkv, step.attention_rows)
        return self._attend(self._parts(qkv, layer) if has_parts else (qkv, None, None), layer, step)

    def _real_channels(self, x: ir.Value) -> ir.Value:
        """Leave out the channels that fill up heads [B, T, H * D]."""
        d, size = self._architecture.dimensions, kernel_head_size(self._architecture.dimensions.head_size)
        if size == d.head_size:
            return x
        real = np.arange(d.num_heads * size).reshape(-1, size)[:, : d.head_size].ravel()
        return self._pen.op("Gather", x, self._pen.constant("real_channels", real), axis=-1)

    def _attend(self, parts: Sequence[ir.Value | None], layer: int, step: StepInputs) -> ir.Value:
        """Queries, keys and values, or all in the first of them, to the mixed values [B, T, H * D].

        A layer without a cache reads its owner's, the new rows too: the owner had its turn before, in the same call.
        Over integers its kernel wants the cache among its outputs all the same, and writes nothing to it.
        """
        pen, owner = self._pen, self._architecture.cache_owner(layer)
        number, dtype = self._architecture.cache_number(owner), self._cache_type
        read, written = self._kernels.cache_shapes(
            self._architecture.dimensions.num_kv_heads, kernel_head_size(self._architecture.dimensions.head_size)
        )
        if owner != layer:
            mixed, *presents = self._mix(parts, self._caches[owner], layer, step)
            for kind, present in zip(("key", "value"), presents, strict=False):
                pen.output(present, f"present_{kind}_{number}_of_{layer}", dtype, written)
            return mixed
        past = [pen.input(f"past_{kind}_{number}", dtype, read) for kind in ("key", "value")]
        mixed, *self._caches[layer] = self._mix(parts, past, layer, step)
        for kind, present in zip(("key", "value"), self._caches[layer], strict=True):
            pen.output(present, f"present_{kind}_{number}", dtype, written)
        return mixed

    @property
    def _cache_type(self) -> ir.DataType:
        return self._pen.numbers if self._cache_scales is None else ir.DataType.INT8

    def _mix(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: int, step: StepInputs
    ) -> Sequence[ir.Value]:
        """Return what attention mixes and, where the kernel gives it, the cache with the new rows in their place."""
        a, d = self._architecture, self._architecture.dimensions
        settings = AttentionLayer(
            num_heads=d.num_heads,
            num_kv_heads=d.num_kv_heads,
            head_size=kernel_head_size(d.head_size),
            scale=a.attention_scales[layer],
            softcap=a.attention_cap or 0.0,
            window=a.windows[layer],
            turns=step.turns[layer],
            writes=a.cache_owner(layer) == layer,
            cache_scales=self._scales(layer),
        )
        return self._kernels.attend(parts, past, settings, step.of(layer))

    def _scales(self, layer: int) -> tuple[ir.Value, ir.Value] | None:
        """Return the scales of the keys and the values that a layer reads, [1, K, 1, D]; None of a cache of numbers."""
        if self._cache_scales is None:
            return None
        owner = self._architecture.cache_owner(layer)
        k, v = self._cache_scales[self._architecture.cache_number(owner)]
        return (
            self._pen.weight(f"layers.{owner}.key_scales", lambda: k[None, :, None]),
            self._pen.weight(f"layers.{owner}.value_scales", lambda: v[None, :, None]),
        )

    def _parts(self, qkv: ir.Value, layer: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Split the fused projection; norm queries and keys, then clip all three, where the architecture does."""
        a, d, pen = self._architecture, self._architecture.dimensions, self._pen
        size = kernel_head_size(d.head_size)
        widths = np.array([d.num_heads * size, d.num_kv_heads * size, d.num_kv_heads * size], np.int64)
        query, key, value = pen.op_outputs("Split", qkv, pen.constant("qkv_widths", widths), count=3, axis=-1)
        if a.head_norm != "none":
            query, key = self._norm_rows(query, "q_norm", layer), self._norm_rows(key, "k_norm", layer)
        if a.qkv_clip is None:
            return query, key, value
        ends = [pen.number(f"qkv_{end}", limit) for end, limit in (("lowest", -a.qkv_clip), ("highest", a.qkv_clip))]
        query, key, value = (pen.op("Clip", part, *ends) for part in (query, key, value))
        return query, key, value

    def _norm_rows(self, x: ir.Value, name: str, layer: int) -> ir.Value:
        """Norm the queries or the keys of a layer, [B, T, heads * D]."""
        make = functools.partial(self._weights.head_gain, name, layer)
        return self._norm_heads(x, self._pen.weight(f"layers.{layer}.{name}", make))

    def _norm_heads(self, x: ir.Value, gain: ir.Value) -> ir.Value:
        """Norm each head of [B, T, heads * D], or all of them together.

        The zeros of a padded head shrink its mean of squares; gain and epsilon make up for it.
        """
        a, pen = self._architecture, self._pen
        real, size = a.dimensions.head_size, kernel_head_size(a.dimensions.head_size)
        epsilon = a.norm_epsilon * real / size
        if a.head_norm == "joint":
            return self._kernels.norm("rms", x, gain, epsilon=epsilon)
        heads = pen.op("Reshape", x, pen.constant(f"split_heads_{size}", np.array([0, 0, -1, size], np.int64)))
        if a.head_norm == "shared":
            normed = self._kernels.norm("rms", heads, gain, epsilon=epsilon)
        else:
            ones = pen.constant("head_ones", np.ones(size, np.float32))
            plain = self._kernels.norm("rms", heads, ones, epsilon=epsilon)
            normed = pen.op("Mul", plain, gain)
        return pen.op("Reshape", normed, pen.constant("join_heads", np.array([0, 0, -1], np.int64)))

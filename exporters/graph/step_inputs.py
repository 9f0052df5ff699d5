"""What attention reads beside its rows: the inputs that all layers of a call share, and the settings of one layer.

Shapes: B batch, T tokens, A rows of attention, S total length (cached and new rows), D padded head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

__all__ = ["AttentionLayer", "StepInputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What every attention of a call reads beside its rows and its cache; `turns` has cosines and sines by layer, None
    where positions are not turned.

    Attention has rows of its own where a target rounds a single row in another way than several: `attention_rows` are
    the numbers of the tokens that it is given, one of them maybe twice, `token_rows` those of its rows that go on.
    Without them A is T.

    Layers in `rings` have caches that hold the last rows only: the last position and the total length are others there,
    counted from the first row that is held, and no bias is added.
    """

    last_positions: ir.Value  # int32 [B], S - 1
    total_length: ir.Value  # int32 scalar, S
    position_ids: ir.Value  # int64 [B, A]
    attention_bias: ir.Value | None  # float32 [1, 1, A, S]
    attention_rows: ir.Value | None  # int64 [A]
    token_rows: ir.Value | None  # int64 [T]
    turns: Mapping[int, tuple[ir.Value, ir.Value] | None]
    rings: Mapping[int, tuple[ir.Value, ir.Value]]

    def of(self, layer: int) -> StepInputs:
        """Return the inputs as a layer reads them."""
        if layer not in self.rings:
            return self
        last_positions, total_length = self.rings[layer]
        return replace(self, last_positions=last_positions, total_length=total_length, attention_bias=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer:
    """How one layer attends; `turns` are its cosines and sines [positions, D / 2], if it has any.

    `window` is how many newest tokens, itself included, a token sees; None is all. A `softcap` of 0 is none. A
    layer `writes` its new rows to the cache, unless that is the cache of another layer, which did. `cache_scales` are
    what the integers of keys and values stand for, [1, K, 1, D]; None of a cache of numbers.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    softcap: float
    window: int | None
    turns: tuple[ir.Value, ir.Value] | None
    writes: bool
    cache_scales: tuple[ir.Value, ir.Value] | None = None

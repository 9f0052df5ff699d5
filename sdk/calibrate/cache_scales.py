"""The scales of an int8 cache: how far a model's own keys and values reach on a text.

Shapes: K kv heads, T tokens, D padded head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.documents import Documents
from skipstone.calibrate.windows import Windows
from skipstone.exporters import ExportPlan
from skipstone.exporters.graph import CacheScales
from skipstone.runtime.engine import Draft, KVCache, Model

__all__ = ["CacheScalesOfText", "reach_of_keys"]

Floats: TypeAlias = NDArray[np.float32]
NUM_WINDOWS: Final = 12
_LARGEST: Final = 127  # of the integers
# A channel that stays 0, as those that fill up a head, has no scale of its own.
_NO_REACH: Final = np.float32(1)


@dataclass(frozen=True, slots=True)
class CacheScalesOfText:
    """Finds the scales of an int8 cache by running the plain bundle on documents, 3,072 tokens of them.

    The largest magnitude of a channel becomes 127; to clip the largest ones lost more (docs/cache.md). Source: the
    calibration of onnxruntime-genai, and the pair rule of FireQ (2025).
    """

    documents: Documents

    def __call__(self, plan: ExportPlan, folder: Path) -> CacheScales:
        """Return the scales for the plain bundle in `folder`. Raises: ConfigError for a text that is too short."""
        architecture = plan.architecture
        windows = Windows.of(plan, self.documents, num_windows=NUM_WINDOWS).calibrate
        rotaries = [architecture.rotaries[layer] for layer in architecture.cached_layers]
        turning = [0 if rotary is None else rotary.size // 2 for rotary in rotaries]
        found: dict[int, tuple[Floats, Floats]] = {}
        for layers in _caches(folder, windows):
            for number, (keys, values) in enumerate(layers):
                reach = reach_of_keys(keys, turning[number]), np.abs(values).max(axis=1)
                before = found.get(number, reach)
                found[number] = np.maximum(before[0], reach[0]), np.maximum(before[1], reach[1])
        return {number: (_scales(keys), _scales(values)) for number, (keys, values) in found.items()}


def reach_of_keys(keys: Floats, num_turning: int) -> Floats:
    """Return the largest magnitudes [K, D] of turned keys [K, T, D], at these positions or any others.

    The first `num_turning` channels of both halves of a head turn in pairs. Either channel of a pair reaches the length
    of the pair at some position: that is the magnitude of both.
    """
    magnitudes = np.abs(keys)
    first, second = np.split(magnitudes, 2, axis=2)
    lengths = np.hypot(first[..., :num_turning], second[..., :num_turning])
    first[..., :num_turning] = second[..., :num_turning] = lengths
    reach: Floats = magnitudes.max(axis=1)
    return reach


def _caches(folder: Path, windows: NDArray[np.int64]) -> Iterator[Sequence[tuple[Floats, Floats]]]:
    """Yield the keys and values [K, T, D] of all layers, window by window; valid until the next."""
    model = Model.open(folder, cache="fp32")
    for token_ids in windows:
        sequence = model.new_sequence(context_length=len(token_ids))
        sequence.append(token_ids.tolist())
        sequence.extend(Draft.empty())
        yield [*_rows(sequence.cache, len(token_ids))]


def _rows(cache: KVCache, num_tokens: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield the keys and values [K, T, D] that layers hold of a text: of some, the last rows only."""
    for layer, ring, first in zip(cache.layers, cache.rings[0], cache.first_rows, strict=True):
        rows = slice(first, num_tokens)
        place = rows if ring is None else ring.local(rows)
        keys, values = (buffer.read(np.s_[0, :, place]) for buffer in layer)
        yield keys, values


def _scales(reach: Floats) -> Floats:
    return np.where(reach > 0, reach / _LARGEST, _NO_REACH).astype(np.float32)

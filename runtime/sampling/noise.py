"""Random noise without a generator: every value is looked up by what it is for, so the order of questions is free."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["gumbel"]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def gumbel(seed: int, position: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise, one value for each token: a pure function of seed, position and token id.

    The argmax of logits plus this noise is a draw from their softmax. Leaving tokens out does not change the noise of
    the others. The hash is the same everywhere; the logarithms may differ in the last bits between platforms.
    Values lie between -3.7 and 36.8. Cost: about 7 ns a token.

    Source: SplitMix64 (Steele, Lea and Flood, 2014) as the hash; Gumbel-max (Maddison, Tarlow and Minka, 2014).
    """
    key = _output(_output(_STEP, seed), position)
    bits = _output(key, token_ids.astype(np.uint64)) >> 12
    # 52 bits and a half is exact in float64 and never 0 or 1, so both logarithms are finite.
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _output(key: int, index: Any) -> Any:
    """Return what SplitMix64, started at `key`, puts out at an index: an int, or an array of uint64 for many."""
    bits = (index * _STEP + key) & _MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & _MASK
    return bits ^ bits >> 31

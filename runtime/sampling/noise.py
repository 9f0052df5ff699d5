"""Random noise without a generator: every value is looked up by what it is for, so the order of questions is free.

A seed has three streams, each a chain of hashes. `gumbel` starts from the positions of a text. `uniform` and
`draft_seed` start from two positions that no text reaches, so the three are as independent as positions are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draft_seed", "gumbel", "uniform"]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_COINS = 2**63
_DRAFTS = 2**63 + 1


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
    between = (bits.astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(between))
    return noise


def uniform(seed: int, position: int, index: int) -> float:
    """Return a number between 0 and 1, never either: a pure function of the three, for rules that flip coins.

    Independent of `gumbel` for the same seed and position. Cost: about 2 microseconds.
    """
    bits: int = _output(_stream(seed, _COINS, position), index) >> 12
    return (bits + 0.5) * 2.0**-52


def draft_seed(seed: int, position: int) -> int:
    """Return the seed with which a drafter draws the guesses of one round, in a text of `position` tokens so far.

    Its i-th draw takes `gumbel(draft_seed(seed, len(history)), i, token_ids)`: independent of the sampler's noise and
    of the coins. The seed is another one in each round, because a rule may judge a guess by those after it: noise that
    helped to reject guesses must not draw the next ones.
    """
    return _stream(seed, _DRAFTS, position)


def _stream(seed: int, purpose: int, position: int) -> int:
    key: int = _output(_output(_output(_STEP, seed), purpose), position)
    return key


def _output(key: int, index: Any) -> Any:
    """Return what SplitMix64, started at `key`, puts out at an index: an int, or an array of uint64 for many."""
    bits = (index * _STEP + key) & _MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & _MASK
    return bits ^ bits >> 31

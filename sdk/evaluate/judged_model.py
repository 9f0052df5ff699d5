"""What a model to be compared can do: a bundle here, a GGUF file in llama.cpp.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["JudgedModel", "Logits", "random_tokens"]

Logits: TypeAlias = NDArray[np.float32]


class JudgedModel(Protocol):
    """What the judge asks of a model. `num_bytes` is what lies on disk, `bits_per_weight` is of the weights alone."""

    num_bytes: int
    bits_per_weight: float
    vocab_size: int
    context_length: int
    threads: int

    def text(self, token_ids: SequenceOf[int]) -> str:
        """Return what tokens say, special ones with their names."""
        ...

    def begin(self, token_ids: SequenceOf[int]) -> None:
        """Forget the text, and read a window of tokens next."""
        ...

    def logits(self, num_rows: int) -> Logits:
        """Return the logits [N, V] behind the next `num_rows` tokens of the window."""
        ...

    def fill(self, num_tokens: int, *, room: int) -> float:
        """Forget the text, read so many random tokens, and return the seconds; `room` is for tokens behind them."""
        ...

    def decode(self, num_tokens: int) -> float:
        """Write so many tokens behind what was read, and return the seconds."""
        ...


def random_tokens(num_tokens: int, vocab_size: int) -> list[int]:
    """Return the same tokens for every model of a vocabulary."""
    token_ids: list[int] = np.random.default_rng(0).integers(0, vocab_size, num_tokens).tolist()
    return token_ids

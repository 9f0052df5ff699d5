"""What stands in the table beside the methods: anything that gives logits for windows of text, such as a bundle.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Draft, Model

__all__ = ["Beside", "BundleBeside"]

Logits: TypeAlias = NDArray[np.float32]
_ROWS: Final = 32  # of a call


class Beside(Protocol):
    """Gives logits for windows of text. `shares` are what it skips: of the layers, of the FFNs, of a whole step."""

    name: str
    shares: tuple[float, float, float]

    def logits(self, window: Sequence[int], num_dense: int) -> Iterator[Logits]:
        """Yield logits [N, V] behind each token of a window but the last, from number `num_dense` on.

        The first `num_dense` tokens are read densely, as a prompt is.
        """
        ...


class BundleBeside:
    """A bundle of the same checkpoint, run by plain decoding's graphs: it skips nothing."""

    def __init__(self, bundle: Path) -> None:
        self.name, self.shares = bundle.name, (0.0, 0.0, 0.0)
        self.model = Model.open(bundle)

    def require_vocabulary(self, vocab_size: int) -> None:
        """Raise ConfigError unless the bundle has so many tokens."""
        found = self.model.manifest.dimensions.vocab_size
        if found != vocab_size:
            raise ConfigError(
                f"{self.name} has {found} tokens and the checkpoint {vocab_size}; give a bundle of this checkpoint"
            )

    def logits(self, window: Sequence[int], num_dense: int) -> Iterator[Logits]:
        """Yield logits [N, V] behind each token of a window but the last, from number `num_dense` on."""
        sequence = self.model.new_sequence(context_length=len(window))
        sequence.append(window[: num_dense + 1])
        left = window[num_dense + 1 :]
        while left:
            piece = left[: min(_ROWS, 1 + sequence.draft_room)]
            yield sequence.extend(Draft.chain(piece[:-1], source="text"))
            sequence.commit(piece)
            left = left[len(piece) :]

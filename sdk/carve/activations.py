"""What the neurons of one FFN do on a text.

Shapes: T tokens, E hidden size, I inner width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FfnActivations"]

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FfnActivations:
    """What an FFN reads `x` [T, E], what its neurons give `inner` [T, I], and its matrices, outputs first.

    `gate` and `up` are [I, E], `down` is [E, I].
    """

    x: Floats
    inner: Floats
    gate: Floats
    up: Floats
    down: Floats

    @property
    def lengths(self) -> Floats:
        """The length of what a neuron adds for an output of 1, [I]."""
        lengths: Floats = np.linalg.norm(self.down, axis=0)
        return lengths

    @property
    def added(self) -> Floats:
        """The length of what each neuron adds to the stream, [T, I]."""
        added: Floats = np.abs(self.inner) * self.lengths
        return added

    def tokens(self, rows: slice) -> FfnActivations:
        """Return the same for some of the tokens."""
        return FfnActivations(x=self.x[rows], inner=self.inner[rows], gate=self.gate, up=self.up, down=self.down)

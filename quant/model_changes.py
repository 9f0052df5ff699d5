"""What a recipe asks to be done to a model before its matrices are rounded: scales of channels, and rotations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["RotationRecipe", "ScaleRecipe"]

# KL of a real model in int4 by the alpha of gains: 0 0.227, 0.35 0.184, 0.5 0.180, 0.65 0.202, 0.8 0.232. Of the
# powers of inputs, 0.3 to 0.5 are best nearly everywhere on real models.
_ALPHAS: Final[Mapping[str, tuple[float, ...]]] = {
    "gains": (0.45,),
    "smooth": (0.5,),
    "awq": (0.0, 0.2, 0.3, 0.4, 0.5, 0.65),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRecipe:
    """Scales of channels, which go from the inputs of matrices into their columns.

    `gains` takes them from the gains of norms and the sizes of rows, to the power of the only alpha. The others need a
    text: `smooth` weighs the largest inputs against the largest weights by the only alpha; `awq` takes the power of the
    inputs' sizes, of all alphas, with which products round best. Without alphas they are those that measured best.
    """

    method: str
    alphas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in _ALPHAS:
            raise ValueError(f"scales by {self.method!r} are not known; choose one of {', '.join(_ALPHAS)}")
        object.__setattr__(self, "alphas", self.alphas or _ALPHAS[self.method])
        if len(self.alphas) > 1 and self.method != "awq":
            raise ValueError(f"scales by {self.method} take one alpha, found {len(self.alphas)}")
        if not all(math.isfinite(alpha) and 0 <= alpha <= 1 for alpha in self.alphas):
            raise ValueError(f"alphas of scales lie between 0 and 1, found {', '.join(map(str, self.alphas))}")

    @property
    def reads_text(self) -> bool:
        """Whether they depend on the inputs of matrices."""
        return self.method != "gains"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecipe:
    """Random rotations of the stream, and with `heads` of the values of each head; `seed` chooses them."""

    seed: int = 0
    heads: bool = True

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"the seed of a rotation is a whole number from 0, found {self.seed}")

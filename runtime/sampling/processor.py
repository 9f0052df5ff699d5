"""What every step between the model's logits and the choice of a token looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = ["LogitProcessor", "require"]


class LogitProcessor(Protocol):
    """One step: a penalty, a ban, a temperature, a truncation.

    It depends on nothing but its settings, the row and the tokens before it, so that a drafted row is judged exactly
    as the same row of plain decoding.
    """

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        """Return the row [V] after this step; a removed token has -inf.

        `logits` [V] is the sampler's own copy, with at least one finite value and the rest finite or -inf: change it
        and return it, or return a new one. `history`: every token before the row, prompt and answer; not to be changed.
        """
        ...


def require(holds: bool, option: str, value: object, wanted: str) -> None:
    """Raise ConfigError with the option, its value and the range it must lie in, unless `holds`."""
    if not holds:
        raise ConfigError(f"{option} must be {wanted}, got {value!r}")

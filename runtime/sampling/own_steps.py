"""Steps of the user's own between the model's logits and the choice of a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError

__all__ = ["OwnStep", "OwnSteps"]

OwnStep: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32]], Any]
"""(tokens so far [T], logits [V]) -> logits [V]; see `SamplingOptions`."""


class OwnSteps:
    """Functions of the user's, one after the other. What they raise comes as it is."""

    def __init__(self, functions: Sequence[OwnStep]) -> None:
        self._functions = tuple(functions)

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        token_ids = np.array(history, dtype=np.int64)
        token_ids.flags.writeable = False  # all of them get the same
        for place, function in enumerate(self._functions):
            logits = _checked(function(token_ids, logits), f"processors[{place}]", size=len(logits))
        return logits


def _checked(given: object, name: str, *, size: int) -> NDArray[np.float32]:
    """Return what a function gave as a row [V] of numbers and -inf. Raises: ConfigError for anything else."""
    if given is None:
        raise ConfigError(f"{name} returned None; return the logits, the ones that it got or new ones")
    try:
        row = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} returned a {type(given).__name__}, where {size} logits were wanted") from error
    if row.shape != (size,):
        raise ConfigError(f"{name} returned an array of shape {row.shape}, where logits of shape ({size},) were wanted")
    largest = row.max()  # nan where any is
    if not largest < np.inf:
        found = "no number (nan)" if np.isnan(largest) else "inf"
        raise ConfigError(
            f"{name} returned {found} among the logits; give finite numbers, and -inf for what may not come"
        )
    if largest == -np.inf:
        raise ConfigError(f"{name} leaves no token at this place; keep at least one above -inf")
    return row

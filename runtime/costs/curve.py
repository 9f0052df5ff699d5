"""What a model call costs here: seconds as a function of its rows and of the context length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from skipstone.errors import ConfigError

__all__ = ["CostCurve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCurve:
    """Measured `seconds[c][r]` of a call of `rows[r]` rows behind `contexts[c]` cached tokens.

    Between the measured points it is linear, and beyond the last it goes on as steeply, but never falls.
    Raises: ConfigError unless rows and contexts rise and every cell has a positive time.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for name, values in (("rows", self.rows), ("contexts", self.contexts)):
            if not values or list(values) != sorted(set(values)):
                raise ConfigError(f"{name} of a cost curve must rise, found {list(values)}")
        fits = len(self.seconds) == len(self.contexts) and all(len(line) == len(self.rows) for line in self.seconds)
        if not fits or not all(0 < value < inf for line in self.seconds for value in line) or self.rows[0] != 1:
            raise ConfigError("a cost curve needs a positive time for each of its contexts and rows, from one row on")

    def costs(self, context: int, *, max_rows: int) -> list[float]:
        """Return the seconds of calls of 0 to `max_rows` rows; more rows never cost less, none cost nothing."""
        line = [_between(self.contexts, column, context) for column in zip(*self.seconds, strict=True)]
        costs = [0.0]
        for rows in range(1, max_rows + 1):
            costs.append(max(costs[-1], _between(self.rows, line, rows)))
        return costs


def _between(points: Sequence[int], values: Sequence[float], point: int) -> float:
    """Return the value at `point`, on the line through its two neighbours or through the last two if that rises."""
    if len(points) == 1 or point <= points[0]:
        return values[0]
    upper = min(bisect_right(points, point), len(points) - 1)
    start, end = points[upper - 1], points[upper]
    value = values[upper - 1] + (point - start) / (end - start) * (values[upper] - values[upper - 1])
    return max(value, values[-1]) if point > points[-1] else value

"""What a model call costs here: seconds as a function of its rows and of the context length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, log

from skipstone.errors import ConfigError

__all__ = ["CostCurve", "believed"]

# A call of n rows could be n calls of one, and takes no less than fewer rows do: a time so many times beside that, or
# beside what is believed, was disturbed.
DOUBTFUL = 1.5
MOST = 1 << 31
# No call takes less, or more; so no ratio of two times is out of range.
LEAST_S, MOST_S = 1e-12, 1e9
# Usual times that are longer than the shortest by more than this share, in the median of all, are of a busy machine.
MOST_SPREAD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCurve:
    """Measured `seconds[c][r]` of a call of `rows[r]` rows behind `contexts[c]` cached tokens.

    `spread` has for each by how much its usual time was above that, as a share: 0.5 is half as long again. It is empty
    where nobody looked.

    Between the measured points it is linear, and beyond the last it goes on as steeply, but never falls. A time that no
    machine has, as more rows take more, was disturbed: those beside it tell better. See `believed`.
    Raises: ConfigError unless rows and contexts rise and every cell has a positive time.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("rows", self.rows), ("contexts", self.contexts)):
            if not values or list(values) != sorted(set(values)) or values[-1] > MOST:
                raise ConfigError(f"{name} of a cost curve must rise, found {list(values)}")
        fits = len(self.seconds) == len(self.contexts) and all(len(line) == len(self.rows) for line in self.seconds)
        if (
            not fits
            or not all(LEAST_S < value < MOST_S for line in self.seconds for value in line)
            or self.rows[0] != 1
        ):
            raise ConfigError("a cost curve needs a positive time for each of its contexts and rows, from one row on")
        fits = not self.spread or [*map(len, self.spread)] == [*map(len, self.seconds)]
        if self.contexts[0] < 0 or not fits or not all(0 <= share < inf for line in self.spread for share in line):
            raise ConfigError("a cost curve has contexts from 0 on, and a spread, of 0 or more, for each time or none")

    def costs(self, context: int, *, max_rows: int) -> list[float]:
        """Return the seconds of calls of 0 to `max_rows` rows; more rows never cost less, none cost nothing."""
        return self._through(self._line(context), max_rows)

    def hopeful(self, context: int, *, max_rows: int) -> list[float]:
        """Return such seconds as low as they may be: none is above the line through those beside it, and one that was
        disturbed not above the line through the two before.

        So a number of rows that was measured too slow is tried, and tells itself what it takes.
        """
        line, measured = self._line(context), self._measured(context)
        lower = [line[0]]
        for place in range(1, len(line)):
            pairs = [(place - 1, place + 1)] if place + 1 < len(line) else []
            if place > 1 and (not pairs or not 1 / DOUBTFUL < measured[place] / line[place] < DOUBTFUL):
                pairs.append((place - 2, place - 1))
            least = min((_on_line(self.rows, line, pair, place) for pair in pairs), default=line[place])
            lower.append(min(line[place], max(lower[-1], least)))
        return self._through(lower, max_rows)

    @property
    def doubtful(self) -> list[tuple[int, int]]:
        """The places (c, r) of times that are far from what is believed: they were disturbed."""
        return [
            (c, r)
            for c, line in enumerate(self.seconds)
            for r, (time, other) in enumerate(zip(line, believed(self.rows, line), strict=True))
            if not 1 / DOUBTFUL < time / other < DOUBTFUL
        ]

    @property
    def tells_scale(self) -> bool:
        """Whether a plain call tells how quick all calls are now: not where its own time is doubtful."""
        return all(row for _, row in self.doubtful)

    @property
    def is_sound(self) -> bool:
        """Whether it was measured without much disturbance, so that it may be kept."""
        shares = sorted(share for line in self.spread for share in line)
        return not self.doubtful and (not shares or shares[len(shares) // 2] <= MOST_SPREAD)

    def _line(self, context: int) -> list[float]:
        """Return what is believed of the measured numbers of rows."""
        return believed(self.rows, self._measured(context))

    def _measured(self, context: int) -> list[float]:
        return [_between(self.contexts, column, context) for column in zip(*self.seconds, strict=True)]

    def _through(self, line: Sequence[float], max_rows: int) -> list[float]:
        costs = [0.0]
        for rows in range(1, max_rows + 1):
            costs.append(max(costs[-1], _between(self.rows, line, rows)))
        return costs


def believed(rows: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Return times of calls of so many rows as they can be: more rows never take less, and few not many times as much.

    Times that are far from that are of a disturbed call: the one is left out without which the others are least so, and
    so on. In its place stands what the others say, on the line through those beside it. Where times fall a little, each
    stretch that must be level gets its median, the lower of two.
    """
    times, kept = [*seconds], list(range(len(rows)))
    while len(kept) > 2 and max(_faults(rows, times, kept)) > log(DOUBTFUL):
        kept.remove(min(kept, key=lambda place: sum(_faults(rows, times, [at for at in kept if at != place]))))
    for place in range(len(rows)):
        if place not in kept:
            times[place] = _beside(rows, times, kept, place)
    return _rising(times)


def _faults(rows: Sequence[int], times: Sequence[float], places: Sequence[int]) -> list[float]:
    """Return of each pair how far the second time is below the first, or above that of as many calls of the first.

    On a logarithmic scale; 0 where it is neither.
    """
    return [
        max(0.0, log(times[one] / times[other]), log(times[other] * rows[one] / (times[one] * rows[other])))
        for one, other in combinations(places, 2)
    ]


def _beside(rows: Sequence[int], times: Sequence[float], kept: Sequence[int], place: int) -> float:
    """Return the time of a place on the line through the two kept ones that are nearest, or as many of their rows."""
    after = min(max(bisect_right(kept, place), 1), len(kept) - 1)
    start, end = kept[after - 1], kept[after]
    line = _on_line(rows, times, (start, end), place)
    return max(line, times[start] * min(1.0, rows[place] / rows[start]))


def _on_line(rows: Sequence[int], times: Sequence[float], pair: tuple[int, int], place: int) -> float:
    """Return the time of a place on the line through a pair of others, which does not fall."""
    start, end = pair
    slope = max(0.0, (times[end] - times[start]) / (rows[end] - rows[start]))
    return times[start] + slope * (rows[place] - rows[start])


def _rising(times: Sequence[float]) -> list[float]:
    """Return the nearest times that never fall: medians of stretches."""
    blocks: list[list[float]] = []
    for time in times:
        blocks.append([time])
        while len(blocks) > 1 and _middle(blocks[-2]) > _middle(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [_middle(block) for block in blocks for _ in block]


def _middle(times: Sequence[float]) -> float:
    return sorted(times)[(len(times) - 1) // 2]


def _between(points: Sequence[int], values: Sequence[float], point: int) -> float:
    """Return the value at `point`, on the line through its two neighbours or through the last two if that rises."""
    if len(points) == 1 or point <= points[0]:
        return values[0]
    upper = min(bisect_right(points, point), len(points) - 1)
    start, end = points[upper - 1], points[upper]
    value = values[upper - 1] + (point - start) / (end - start) * (values[upper] - values[upper - 1])
    return max(value, values[-1]) if point > points[-1] else value

"""Which type of cache a device runs fastest: by the rows of a method's calls, and by how much is cached.

An int8 cache is a quarter to read, which one row behind a long text waits for; for several rows other kernels may win.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skipstone.devices import Device
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.costs.measure import cost_curve
from skipstone.runtime.engine import CACHE_TYPES, CACHE_WORDS, CacheName, Model, runs_cache

__all__ = ["CacheChoice", "Crossing", "cache_curves", "choose_cache", "crossings", "find_cache"]

STEP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheChoice:
    """A type of cache, and the seconds of the call for which it was chosen, by type."""

    cache_type: str
    seconds: Mapping[str, float]
    num_rows: int
    context: int

    @property
    def option(self) -> CacheName | None:
        """The type as options call it; None where they cannot, as the bundle has no other."""
        return next((name for name, of_manifest in CACHE_TYPES.items() if of_manifest == self.cache_type), None)

    @property
    def told(self) -> str:
        """Why this type, in one line."""
        call = f"a call of {self.num_rows} row{'s' * (self.num_rows > 1)} behind {self.context:,} tokens"
        name = CACHE_WORDS[self.cache_type]
        if len(self.seconds) == 1:
            return f"cache {name}: the bundle and the device have no other"
        others = ", ".join(
            f"{1e3 * seconds:.3g} ms with {CACHE_WORDS[other]}"
            for other, seconds in self.seconds.items()
            if other != self.cache_type
        )
        return f"cache {name}: {call} takes {1e3 * self.seconds[self.cache_type]:.3g} ms, {others}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Where the faster type changes: `before` up to `context` tokens, `after` from there on, for calls of some rows.

    `context` is None where one type, `after`, is the faster one at all lengths.
    """

    num_rows: int
    before: str
    after: str
    context: int | None
    seconds: Mapping[str, float]
    end: int

    @property
    def told(self) -> str:
        """The crossing in one line, with the times at the end."""
        rows = f"{self.num_rows} row{'s' * (self.num_rows > 1)}"
        times = ", ".join(f"{CACHE_WORDS[name]} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        name, at = CACHE_WORDS[self.after], f"at {self.end:,}: {times}"
        if self.context is None:
            return f"{rows}: {name} at every length; {at}"
        return f"{rows}: {CACHE_WORDS[self.before]} below {self.context:,} tokens, {name} from there on; {at}"


def choose_cache(curves: Mapping[str, CostCurve], *, num_rows: int, context: int) -> CacheChoice:
    """Return the type whose calls of so many rows behind so many tokens are the cheapest; of equal ones the first."""
    seconds = {name: curve.costs(context, max_rows=num_rows)[num_rows] for name, curve in curves.items()}
    return CacheChoice(
        cache_type=min(seconds, key=lambda name: seconds[name]), seconds=seconds, num_rows=num_rows, context=context
    )


def crossings(curves: Mapping[str, CostCurve], *, rows: tuple[int, ...], limit: int) -> list[Crossing]:
    """Return for calls of each number of rows where the cheapest type changes last, up to `limit` tokens."""
    found = []
    for num_rows in rows:
        choices = [
            choose_cache(curves, num_rows=num_rows, context=context)
            for context in sorted({0, *range(STEP, limit, STEP), limit})
        ]
        last, place = choices[-1], len(choices) - 1
        while place and choices[place - 1].cache_type == last.cache_type:
            place -= 1
        found.append(
            Crossing(
                num_rows=num_rows,
                before=choices[max(place - 1, 0)].cache_type,
                after=last.cache_type,
                context=choices[place].context if place else None,
                seconds=last.seconds,
                end=limit,
            )
        )
    return found


def cache_curves(bundle: Bundle, device: Device, profiles: Path | None) -> dict[str, CostCurve]:
    """Return the cost curve of each type that a bundle and a device have; measured where no file knows it.

    That opens the bundle once for each, and takes about a second; the types are measured one after the other.
    """
    return {
        cache_type: cost_curve(Model(bundle, device, profiles=profiles, cache_type=cache_type))
        for cache_type in bundle.manifest.cache_types
        if runs_cache(device, cache_type)
    }


def find_cache(
    bundle: Bundle, device: Device, profiles: Path | None, *, num_rows: int, context: int | None = None
) -> CacheChoice:
    """Return the type that a device runs fastest, by default behind half of what the model sees."""
    most = bundle.manifest.context_length
    depth = most // 2 if context is None else min(context, most)
    return choose_cache(cache_curves(bundle, device, profiles), num_rows=num_rows, context=depth)

"""Who hears that a device is measured, which the first use of a bundle may take time for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["MeasuringWatch", "measured_by", "measuring"]


class MeasuringWatch:
    """Counts the `seconds` of all that is measured, and hears what it is before that begins."""

    def __init__(
        self,
        on_measuring: Callable[[str], None] = lambda what: None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds = 0.0
        self._on_measuring, self._clock, self._is_measuring = on_measuring, clock, False

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Count what is done meanwhile; a measurement inside of another one is counted once."""
        if self._is_measuring:
            yield
            return
        self._on_measuring(what)
        start, self._is_measuring = self._clock(), True
        try:
            yield
        finally:
            self.seconds, self._is_measuring = self.seconds + self._clock() - start, False


_CURRENT: ContextVar[MeasuringWatch | None] = ContextVar("measuring watch", default=None)


@contextmanager
def measured_by(watch: MeasuringWatch) -> Iterator[None]:
    """Let a watch hear of what is measured meanwhile, in this thread."""
    token = _CURRENT.set(watch)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def measuring(what: str) -> Iterator[None]:
    """Tell whoever listens that something is measured meanwhile."""
    watch = _CURRENT.get()
    if watch is None:
        yield
        return
    with watch.measuring(what):
        yield

"""Where calls of a model wait for each other: one runs at a time, in the order in which they came."""

from __future__ import annotations

from collections import deque
from threading import Condition, get_ident
from types import TracebackType
from typing import Final

from skipstone.devices import Cancellation, current_cancellation
from skipstone.errors import ConfigError

__all__ = ["CLOSED", "Gate"]

CLOSED: Final = "this model is closed; load it again with skipstone.load"
LOOKS_S: Final = 0.01  # how often a call that waits looks whether its text was cancelled


class Gate:
    """What each model call goes through, as a context.

    So texts in several threads share a model step by step, and a long prompt lets the others through behind each of its
    pieces. Invariant: at most the first of the queue is inside, and once closed no other gets in.
    """

    def __init__(self) -> None:
        self._changed, self._queue = Condition(), deque[object]()
        self._inside: int | None = None  # the thread whose call runs
        self.is_closed = False

    def require_open(self) -> None:
        """Raise ConfigError where the model is closed."""
        if self.is_closed:
            raise ConfigError(CLOSED)

    def __enter__(self) -> None:
        """Wait for the calls before. Raises: ConfigError where the model is closed, Cancelled for such a text."""
        ticket, cancellation = object(), current_cancellation()
        with self._changed:
            self._require_outside()
            self._queue.append(ticket)
            try:
                self._wait_for_turn(ticket, cancellation)
            except BaseException:
                self._queue.remove(ticket)
                self._changed.notify_all()
                raise
            self._inside = get_ident()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._inside = None
            self._queue.popleft()
            self._changed.notify_all()

    def _wait_for_turn(self, ticket: object, cancellation: Cancellation | None) -> None:
        self.require_open()
        while self._queue[0] is not ticket:
            self._changed.wait(None if cancellation is None else LOOKS_S)
            self.require_open()
            if cancellation is not None:
                cancellation.require()

    def _require_outside(self) -> None:
        """Raise ConfigError where this thread's own call runs, as a signal's handler may meet it."""
        if self._inside == get_ident():
            raise ConfigError("a call of the model runs in this thread; use or close the model behind it")

    def close(self) -> None:
        """Let no more calls in, and wait for the one inside. Raises: ConfigError where that is this thread's own."""
        with self._changed:
            self._require_outside()
            self.is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._inside is None)

"""Lets model calls through until the model is closed, and lets closing wait for those that run."""

from __future__ import annotations

from collections import Counter
from threading import Condition, get_ident
from types import TracebackType

from skipstone.errors import ConfigError

__all__ = ["CLOSED", "Gate"]

CLOSED = "this model is closed; load it again with skipstone.load"


class Gate:
    """What each model call goes through, as a context.

    Invariant: once closed it stays so, and no call is inside.
    """

    def __init__(self) -> None:
        self._changed, self._inside, self.is_closed = Condition(), Counter[int](), False

    def require_open(self) -> None:
        """Raise ConfigError where the model is closed."""
        if self.is_closed:
            raise ConfigError(CLOSED)

    def __enter__(self) -> None:
        with self._changed:
            self.require_open()
            self._inside[get_ident()] += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._inside[get_ident()] -= 1
            self._inside += Counter()  # keeps what is above 0
            self._changed.notify_all()

    def close(self) -> None:
        """Let no more calls in, and wait for those inside.

        Raises: ConfigError in a thread whose own call is inside, as a signal's handler may meet it.
        """
        with self._changed:
            if self._inside[get_ident()]:
                raise ConfigError("a call of the model runs in this thread; close the model behind it")
            self.is_closed = True
            self._changed.wait_for(lambda: not self._inside.total())

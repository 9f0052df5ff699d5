"""Where calls of a model go through: side by side, until the model is closed; closing waits for those that run."""

from __future__ import annotations

from collections import Counter
from threading import Condition, get_ident
from types import TracebackType
from typing import Final

from skipstone.errors import ConfigError

__all__ = ["CLOSED", "Gate"]

CLOSED: Final = "this model is closed; load it again with skipstone.load"


class Gate:
    """What each model call goes through, as a context.

    Calls of several threads run side by side, and the system shares the processor between them. One after the other
    they would make no more tokens in all, and a text would wait for the whole piece of a prompt that another reads:
    2 tokens a second in place of 50 (`tests/benchmarks/texts_at_once.py`).

    Invariant: no thread is inside twice, and once closed no call gets in.
    """

    def __init__(self) -> None:
        self._changed, self._inside, self.is_closed = Condition(), Counter[int](), False

    def require_open(self) -> None:
        """Raise ConfigError where the model is closed."""
        if self.is_closed:
            raise ConfigError(CLOSED)

    def __enter__(self) -> None:
        """Go in. Raises: ConfigError where the model is closed."""
        with self._changed:
            self._require_outside()
            self.require_open()
            self._inside[get_ident()] += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            del self._inside[get_ident()]
            self._changed.notify_all()

    def _require_outside(self) -> None:
        """Raise ConfigError where this thread's own call runs, as a signal's handler may meet it."""
        if self._inside[get_ident()]:
            raise ConfigError("a call of the model runs in this thread; use or close the model behind it")

    def close(self) -> None:
        """Let no more calls in, and wait for those inside. Raises: ConfigError where one is this thread's own."""
        with self._changed:
            self._require_outside()
            self.is_closed = True
            self._changed.wait_for(lambda: not self._inside.total())

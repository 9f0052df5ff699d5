"""The wish to end a text, which may come from any thread or signal handler: the model call that runs ends at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

import onnxruntime as ort

__all__ = ["Cancellation", "Cancelled", "cancellable", "current_cancellation", "run_cancellable"]

T = TypeVar("T")
NO_LOGS: Final = 4


class Cancelled(BaseException):
    """A model call was ended, or not begun, as its text was cancelled. No `except Exception` takes it for a failure."""


class Cancellation:
    """Lets one text, or several that are to end together, be cancelled.

    Invariant: once cancelled it stays so. Ctrl-C while a prompt is read cancels it, too.
    """

    def __init__(self) -> None:
        self.run_options = ort.RunOptions()
        self.run_options.log_severity_level = NO_LOGS

    def cancel(self) -> None:
        """End the texts. May be called from any thread, from a signal handler, and twice."""
        self.run_options.terminate = True

    @property
    def cancelled(self) -> bool:
        """Whether the texts are to end."""
        return bool(self.run_options.terminate)

    def require(self) -> None:
        """Raise Cancelled where the texts are to end."""
        if self.cancelled:
            raise Cancelled


_CURRENT: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


def current_cancellation() -> Cancellation | None:
    """Return what cancels the model calls that are made here now; None where nothing does."""
    return _CURRENT.get()


@contextmanager
def cancellable(cancellation: Cancellation | None) -> Iterator[None]:
    """Let the model calls made meanwhile, in this thread, be cancelled; None leaves it as it is."""
    if cancellation is None:
        yield
        return
    token = _CURRENT.set(cancellation)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def run_cancellable(run: Callable[[ort.RunOptions | None], T]) -> T:
    """Return what a run of a session gives, with the options that end it. Raises: Cancelled."""
    cancellation = _CURRENT.get()
    if cancellation is None:
        return run(None)
    cancellation.require()
    try:
        return run(cancellation.run_options)
    except Exception as error:  # onnxruntime's errors have no base of their own
        if cancellation.cancelled:
            raise Cancelled from error
        raise

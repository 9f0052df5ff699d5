"""Calls of the tokenizers library that cannot end the process, and long ones that can be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from skipstone.errors import SkipstoneError

__all__ = ["apart", "as_errors"]

T = TypeVar("T")
LOOK_EVERY_S: Final = 0.05
_ENDINGS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def as_errors(make: Callable[[str], SkipstoneError]) -> Iterator[None]:
    """Raise what `make` makes of whatever the library throws; its panics are no `Exception`."""
    try:
        yield
    except (*_ENDINGS, SkipstoneError):
        raise
    except BaseException as error:
        raise make(str(error).strip() or type(error).__name__) from error


def apart(work: Callable[[], T]) -> T:
    """Return what `work` returns, done in a thread, so that Ctrl-C is heard meanwhile.

    An interrupted thread works on alone until it is done; it does not hold up the end of the process.
    """
    done, raised = list[T](), list[BaseException]()

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_EVERY_S)
    if raised:
        raise raised[0]
    return done[0]

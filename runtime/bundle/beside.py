"""Work in a thread of its own, whose result or error comes where it is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["beside"]

T = TypeVar("T")


def beside(work: Callable[[], T]) -> Callable[[], T]:
    """Start `work` in a thread, and return what waits for it and returns, or raises, what it did.

    Ctrl-C is heard meanwhile. An interrupted thread works on alone, and does not hold up the end of the process.
    """
    done, raised = list[T](), list[BaseException]()

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised again by whoever waits
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> T:
        thread.join()
        if raised:
            raise raised.pop()  # kept here, it would keep what is on the stack
        return done.pop()

    return wait

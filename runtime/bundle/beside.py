"""Work in a thread of its own, whose errors are raised where it is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["beside"]


def beside(work: Callable[[], None]) -> Callable[[], None]:
    """Start `work` in a thread, and return what waits for it and raises what it raised."""
    raised = list[Exception]()

    def run() -> None:
        try:
            work()
        except Exception as error:  # raised again by whoever waits
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> None:
        thread.join()
        if raised:
            raise raised.pop()  # kept here, it would keep what is on the stack

    return wait

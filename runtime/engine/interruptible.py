"""Long model calls that Ctrl-C and other signals interrupt.

Python runs the handler of a signal in the main thread, and not before the call of a library there returns: for a piece
of a prompt that is up to seconds. So the main thread waits, and another makes the call.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from skipstone.devices import Cancellation, Device, ThreadedDevice, cancellable, current_cancellation

__all__ = ["interruptible"]

# Calls of fewer tokens are over soon.
LEAST_TOKENS: Final = 17
# A call that was told to end writes to the cache until it does, which takes milliseconds.
ENDS_S: Final = 10.0


def interruptible(call: Callable[[], None], device: Device, *, num_tokens: int) -> Callable[[], None]:
    """Return a call that signals interrupt where it is long: of many tokens, on a device that is the processor."""
    is_long = num_tokens >= LEAST_TOKENS and isinstance(device, ThreadedDevice)
    return partial(run_interruptibly, call) if is_long else call


def run_interruptibly(call: Callable[[], None]) -> None:
    """Make a long call; a signal's handler runs meanwhile, and what it raises ends the call and is raised here.

    Cost: a tenth of a millisecond, in the main thread only. Raises: what the call does.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    cancellation = current_cancellation() or Cancellation()
    errors, has_ended = list[BaseException](), threading.Event()

    def work() -> None:
        try:
            with cancellable(cancellation):
                call()
        except BaseException as error:
            errors.append(error)
        finally:
            has_ended.set()

    try:
        threading.Thread(target=work, name="model call", daemon=True).start()
        has_ended.wait()
    except BaseException:
        cancellation.cancel()
        end = time.monotonic() + ENDS_S  # it may not have begun, and nobody can tell
        while not has_ended.is_set() and time.monotonic() < end:
            with contextlib.suppress(KeyboardInterrupt):
                has_ended.wait(ENDS_S)
        raise
    if errors:
        raise errors.pop()  # what stays here would keep its own frames, and the sessions in them

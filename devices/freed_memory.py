"""Memory that is free again goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Let the C library give the system what was freed.

    That of glibc keeps freed blocks for later ones, but those of a model are large and do not fit again next time, so
    that a program which loads one model after the other grows by megabytes each time. Other libraries do it themselves.
    Cost: some milliseconds.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)

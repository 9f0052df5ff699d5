"""Calls of the tokenizers library that cannot end the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from skipstone.errors import SkipstoneError

__all__ = ["as_errors"]

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

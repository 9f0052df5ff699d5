"""A line on the terminal while a prompt is read: how far, how fast, how long yet; gone with the first token."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from threading import Lock, Timer
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from skipstone.errors import SkipstoneError

if TYPE_CHECKING:
    from skipstone.runtime.engine import PromptProgress

__all__ = ["ReadingLine", "StoppedReading"]

PATIENCE_S: Final = 0.5
ERASE: Final = "\r\033[K"


class StoppedReading(SkipstoneError):
    """Ctrl-C came while a prompt was read; it says how far that had come."""


class ReadingLine:
    """Hears how a prompt is read (`on_prompt`), and what is measured before; shows it on a terminal.

        with ReadingLine(quiet=quiet) as line:
            pieces = model.stream(text, on_prompt=line, on_measuring=line.on_measuring)

    It goes when the prompt is read. Nothing is shown in the first half second, in pipes, or when quiet. Ctrl-C inside
    of the block becomes `StoppedReading` while the prompt is read, and stays what it is later.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`stream` is standard error unless another is given."""
        self._stream, self._clock = stream or sys.stderr, clock
        self._is_on = not quiet and self._stream is not None and self._stream.isatty()
        self._start, self._patience_s = clock(), patience_s
        self._said, self._is_shown, self._is_over = "reading the prompt", False, False
        self._progress: PromptProgress | None = None
        self._lock = Lock()
        self._timer = Timer(patience_s, self._show)  # the first piece may take longer
        self._timer.daemon = True

    def __call__(self, progress: PromptProgress) -> None:
        """Hear of a piece of the prompt. Once it is read, what a draft model reads is not shown."""
        if self._is_over:
            return
        self._progress, self._said = progress, told(progress)
        if progress.num_read == progress.num_tokens:
            self.erase()
        elif self._clock() - self._start >= self._patience_s:
            self._show()

    def on_measuring(self, what: str) -> None:
        """Hear that the device is measured."""
        self._said = f"measuring this device once: {what}"

    def erase(self) -> None:
        """Remove the line for good."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._is_shown:
                self._is_shown = False
                self._write(ERASE)

    def _show(self) -> None:
        with self._lock:
            if self._is_on and not self._is_over:
                self._is_shown = True
                self._write(ERASE + self._said)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone does not end the text
            self._stream.write(text)
            self._stream.flush()

    def __enter__(self) -> Self:
        if self._is_on:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_reading = not self._is_over
        self.erase()
        if isinstance(error, KeyboardInterrupt) and was_reading:
            raise StoppedReading(stopped(self._progress)) from error


def told(progress: PromptProgress) -> str:
    """Return how far a prompt is read, how fast, and how long the rest takes."""
    line = f"reading the prompt: {progress.num_read:,} of {progress.num_tokens:,} tokens, {progress.tokens_per_s:.0f}/s"
    return f"{line}, {_told_s(progress.left_s)} left" if progress.left_s else line


def stopped(progress: PromptProgress | None) -> str:
    """Return in words how far a prompt was read when it was stopped."""
    how_far = "" if progress is None else f" ({progress.num_read:,} of {progress.num_tokens:,} tokens)"
    return f"stopped while reading the prompt{how_far}"


def _told_s(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""How an answer stands on a terminal: Markdown, block by block, and no control character that drives it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from typing import Final, Protocol

from skipstone.cli.terminal import visible, write

__all__ = ["Answer", "PlainAnswer", "open_answer"]

FENCE: Final = re.compile(r"^ {0,3}(```|~~~)")
MARKED: Final = re.compile(r"[*_`#|>~\[]|^ *(?:[-+]|\d+[.)]) ", re.MULTILINE)


class Answer(Protocol):
    """Takes a text as it comes, and shows it."""

    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


def open_answer(*, plain: bool) -> Answer:
    """Return what shows the next answer: rendered on a terminal, unless `plain`; as it is elsewhere."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return MarkdownAnswer() if is_terminal and not plain else PlainAnswer()


class PlainAnswer:
    """Writes the text as it is."""

    def write(self, text: str) -> None:
        write(visible(text))

    def close(self) -> None:
        write("\n")


class MarkdownAnswer:
    """Writes the block under way as it comes, and in its place the rendered one when it has ended.

    What has left the screen stays as it was written. A block ends at an empty line, a fence of code at its other end.
    """

    def __init__(self, *, size: Callable[[], tuple[int, int]] = shutil.get_terminal_size) -> None:
        self._size, self._block, self._is_fence = size, "", False

    def write(self, text: str) -> None:
        shown = visible(text)
        while "\n" in shown:
            line, _, shown = shown.partition("\n")
            self._line(line)
        if shown:
            self._block += shown
            write(shown)

    def close(self) -> None:
        """End the last block."""
        if self._block and not self._block.endswith("\n"):
            self._line("")
        self._render()

    def _line(self, rest: str) -> None:
        """Take what ends a line."""
        write(f"{rest}\n")
        self._block += f"{rest}\n"
        line = self._block[:-1].rpartition("\n")[2]
        if FENCE.match(line):
            self._is_fence = not self._is_fence
            if not self._is_fence:
                self._render()
        elif not line.strip() and not self._is_fence:
            self._render()

    def _render(self) -> None:
        """Put the rendered block in the place of the plain one, where all of it is on the screen."""
        block, self._block, self._is_fence = self._block, "", False
        columns, lines = self._size()
        rows = _rows(block, columns)
        if not MARKED.search(block) or rows >= lines:
            return
        write(f"\r\033[{rows}A\033[J" + rendered(block, columns))


def _rows(block: str, columns: int) -> int:
    """Return how many rows of the screen a block takes, whose last line has ended."""
    from rich.cells import cell_len

    widths = [cell_len(line.expandtabs()) for line in block[:-1].split("\n")]
    return sum(max(1, -(-width // columns)) for width in widths)


def rendered(block: str, columns: int) -> str:
    """Return Markdown as a terminal shows it; an empty line behind it stays."""
    from io import StringIO

    from rich.console import Console
    from rich.markdown import Markdown

    out = StringIO()
    console = Console(file=out, force_terminal=True, width=columns, highlight=False, legacy_windows=False)
    console.print(Markdown(block, code_theme="ansi_dark"))
    lines = [line.rstrip() for line in out.getvalue().strip("\n").split("\n")]
    return "\n".join(lines) + ("\n\n" if block.endswith("\n\n") else "\n")

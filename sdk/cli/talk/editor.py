"""Where a user types messages: a line editor with history, several lines, pastes, and completion of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skipstone.cli.standard_input import read_line

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

__all__ = ["Editor", "Lines", "can_edit"]

QUOTES: Final = '"""'
WITH_PATHS: Final = ("/file", "/save", "/load")


class Lines:
    """Messages line by line, from a pipe or a file."""

    def __init__(self, advice: str) -> None:
        self._advice = advice

    def read(self) -> str | None:
        """Return the next message, None behind the last."""
        return read_line(self._advice)


def can_edit() -> bool:
    """Whether a user sits at a terminal that can be driven."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Editor:
    """Lets a user type. Enter sends, Alt-Enter begins a line; what begins with three quotes ends with them.

    Ctrl-C clears what is half typed; on an empty line it says how to leave, and leaves when it comes again.
    """

    def __init__(self, commands: Mapping[str, str], history: Path | None) -> None:
        """`commands` are offered with what they do; `history` is a file that keeps messages, None for none."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_completer(commands),
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
            output=create_output(stdout=sys.stderr),
        )

    def read(self) -> str | None:
        """Return the next message, None when the user leaves."""
        is_leaving = False
        while True:
            try:
                text = self._session.prompt("> ")
            except EOFError:
                return None
            except KeyboardInterrupt:
                if is_leaving:
                    return None
                is_leaving = True
                sys.stderr.write("Ctrl-D or /exit leaves, as Ctrl-C does now\n")
                continue
            return _unquoted(text)


def _unquoted(text: str) -> str:
    """Return a message without the three quotes around it."""
    whole = text.strip()
    is_quoted = len(whole) >= 2 * len(QUOTES) and whole.startswith(QUOTES) and whole.endswith(QUOTES)
    return whole[len(QUOTES) : -len(QUOTES)].strip("\n") if is_quoted else text


def is_open(text: str) -> bool:
    """Whether a message that began with three quotes has not ended."""
    begun = text.lstrip()
    return begun.startswith(QUOTES) and not (len(begun) >= 2 * len(QUOTES) and begun.rstrip().endswith(QUOTES))


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys


def _history(file: Path | None) -> History:
    """Return the history in a file that only its user can read; in memory where there is none or it cannot be kept."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if file is None:
        return InMemoryHistory()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        return FileHistory(str(file))
    return InMemoryHistory()


def _completer(commands: Mapping[str, str]) -> Completer:
    from prompt_toolkit.completion import Completer as Base
    from prompt_toolkit.completion import Completion as Offered
    from prompt_toolkit.completion import PathCompleter
    from prompt_toolkit.document import Document as Typed

    paths = PathCompleter(expanduser=True)

    class Commands(Base):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            typed = document.text_before_cursor
            command, space, path = typed.partition(" ")
            if space and command in WITH_PATHS:
                yield from paths.get_completions(Typed(path, len(path)), complete_event)
            elif typed.startswith("/") and not space:
                for name, told in commands.items():
                    if name.startswith(typed):
                        yield Offered(name, -len(typed), display_meta=told)

    return Commands()

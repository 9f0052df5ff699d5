"""Typing with suggestions under the line: the newest text is asked about, all others are given up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from skipstone.runtime.suggest import Suggestion
    from skipstone.suggester import Suggester

__all__ = ["Live", "TypingPage", "type_with"]

KEYS = "Tab takes it, Up and Down choose, Enter begins a line, Ctrl-D ends"


def type_with(suggester: Suggester, text: str = "") -> str:
    """Let a user type on behind `text`, with drafts under it, and return what stands there in the end."""
    from prompt_toolkit.output import create_output

    return TypingPage(suggester, text, output=create_output(stdout=sys.stderr)).run()


class Live:
    """Asks a suggester in a thread of its own, always about the newest text; the one before is cancelled."""

    def __init__(self, suggester: Suggester, show: Callable[[str, list[Suggestion], float], None]) -> None:
        """`show` gets a text, its drafts and the milliseconds that they took; for each text twice, first words first.

        It is called in the other thread.
        """
        self._suggester, self._show = suggester, show
        self._changed, self._text, self._is_open = Condition(), "", True
        self._num_asked = self._num_answered = 0
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, text: str) -> None:
        """Give up what is asked, and ask about this text."""
        with self._changed:
            self._text, self._num_asked = text, self._num_asked + 1
            self._changed.notify()

    def close(self) -> None:
        """End the thread, after the model step in which it is."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._num_asked > self._num_answered or not self._is_open)
                if not self._is_open:
                    return
                text, self._num_answered = self._text, self._num_asked
            self._answer(text)

    def _answer(self, text: str) -> None:
        """Show the first words, then whole drafts, unless there is a newer text."""

        def wanted() -> bool:
            return self._is_open and self._num_asked == self._num_answered

        start = time.perf_counter()
        for most in (1, None):
            drafts = self._suggester.suggest(text, max_new_tokens=most, wanted=wanted)
            if wanted():
                self._show(text, drafts, (time.perf_counter() - start) * 1000)


class TypingPage:
    """A text and the drafts of what follows it, on a terminal."""

    def __init__(self, suggester: Suggester, text: str = "", **application: Any) -> None:
        """`application` are options of prompt_toolkit's Application: its input and output."""
        from prompt_toolkit.application import Application
        from prompt_toolkit.buffer import Buffer
        from prompt_toolkit.document import Document
        from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window

        self._drafts: list[Suggestion] = []
        self._asked, self._drafts_of, self._chosen, self._milliseconds = "", "", 0, 0.0
        self._live = Live(suggester, self._show)
        self._buffer = Buffer(
            document=Document(text),
            on_text_changed=lambda _: self._change(),
            on_cursor_position_changed=lambda _: self._change(),
        )
        below = Window(FormattedTextControl(self._below), dont_extend_height=True)
        page = HSplit([Window(BufferControl(self._buffer), wrap_lines=True, dont_extend_height=True), below])
        self._application: Application[None] = Application(Layout(page), key_bindings=self._keys(), **application)

    @property
    def drafts(self) -> list[Suggestion]:
        """Those of the text before the cursor; none while they are being made."""
        return self._drafts if self._drafts_of == self._asked else []

    def run(self) -> str:
        """Let the user type; return the text when Ctrl-C or Ctrl-D is pressed."""
        try:
            self._application.run(pre_run=self._change)
        finally:
            self._live.close()
        return self._buffer.text

    def _change(self) -> None:
        text = self._buffer.document.text_before_cursor
        if text != self._asked:
            self._asked, self._chosen = text, 0
            self._live.ask(text)

    def _show(self, text: str, drafts: list[Suggestion], milliseconds: float) -> None:
        self._drafts, self._drafts_of, self._milliseconds = drafts, text, milliseconds
        self._application.invalidate()

    def _below(self) -> StyleAndTextTuples:
        """Return the lines under the text."""
        lines: StyleAndTextTuples = []
        for number, draft in enumerate(self.drafts):
            mark, style = (">", "bold") if number == self._chosen else (" ", "")
            lines.append((style, f"{mark} {number + 1}  {draft.text!r}  {draft.score:.2f}\n"))
        timing = f"{self._milliseconds:.0f} ms. " if self.drafts else ""
        return [*lines, ("fg:ansibrightblack", timing + KEYS)]

    def _take(self, number: int) -> None:
        """Write a draft at the cursor, where there is one of this number."""
        if number < len(self.drafts):
            self._buffer.insert_text(self.drafts[number].text)

    def _keys(self) -> KeyBindings:
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        keys.add("tab")(lambda event: self._take(self._chosen))
        keys.add("enter")(lambda event: self._buffer.insert_text("\n"))
        keys.add("up")(lambda event: self._choose(-1))
        keys.add("down")(lambda event: self._choose(1))
        for number in range(9):
            keys.add("escape", str(number + 1))(lambda event, number=number: self._take(number))
        for key in ("c-c", "c-d"):
            keys.add(key)(self._leave)
        return keys

    def _leave(self, event: KeyPressEvent) -> None:
        self._live.close()  # first, as what it shows wants a page that runs
        event.app.exit()

    def _choose(self, step: int) -> None:
        self._chosen = (self._chosen + step) % max(1, len(self.drafts))

"""The line that is shown while a prompt is read."""

from __future__ import annotations

import io

import pytest

from skipstone.cli.reading import ReadingLine, StoppedReading
from skipstone.runtime.engine import PromptProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """What stands on the line now."""
        return self.getvalue().rpartition("\r\033[K")[2]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def line_on(stream: io.StringIO, clock: Clock, **options: bool) -> ReadingLine:
    return ReadingLine(stream=stream, patience_s=60.0, clock=clock, **options)


def test_a_long_prompt_is_shown_and_goes_when_it_is_read() -> None:
    terminal, clock = Terminal(), Clock()
    with line_on(terminal, clock) as line:
        line(PromptProgress(256, 2763, 0.4))
        assert terminal.getvalue() == ""
        clock.now_s = 60.5
        line(PromptProgress(512, 2763, 1.0))
        assert terminal.shown == "reading the prompt: 512 of 2,763 tokens, 512/s, 4 s left"
        line(PromptProgress(768, 70_000, 1.0))
        assert terminal.shown == "reading the prompt: 768 of 70,000 tokens, 768/s, 1 min 30 s left"
        line(PromptProgress(2763, 2763, 5.0))
        assert terminal.shown == ""
        line(PromptProgress(256, 2763, 0.4))  # of a draft model, while the text stands there
        assert terminal.shown == ""


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_nothing_is_shown_in_pipes_or_when_quiet(stream: io.StringIO, quiet: bool) -> None:
    clock = Clock()
    with line_on(stream, clock, quiet=quiet) as line:
        clock.now_s = 61.0
        line(PromptProgress(512, 2763, 1.0))
    assert stream.getvalue() == ""


def test_what_is_measured_is_said_while_it_lasts() -> None:
    terminal = Terminal()
    with ReadingLine(stream=terminal, patience_s=0.0) as line:
        line.on_measuring("rounding of rows")
        line._show()
        assert terminal.shown == "measuring this device once: rounding of rows"
    assert terminal.shown == ""


def test_ctrl_c_says_how_far_the_prompt_was_read() -> None:
    with (
        pytest.raises(StoppedReading, match=r"^stopped while reading the prompt \(512 of 2,763 tokens\)$"),
        line_on(Terminal(), Clock()) as line,
    ):
        line(PromptProgress(512, 2763, 1.0))
        raise KeyboardInterrupt
    with pytest.raises(StoppedReading, match=r"^stopped while reading the prompt$"), line_on(Terminal(), Clock()):
        raise KeyboardInterrupt


def test_ctrl_c_in_the_text_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt), line_on(Terminal(), Clock()) as line:
        line(PromptProgress(3, 3, 0.1))
        raise KeyboardInterrupt

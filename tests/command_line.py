"""The program `skipstone` as a test meets it: arguments and standard input in, exit code and both outputs back."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass

import pytest

from skipstone.cli.app import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs commands in this process. What libraries write past Python is captured too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capture = monkeypatch, capture

    def __call__(self, *arguments: object, stdin: bytes | str | None = b"") -> Outcome:
        """Run a command to its end, and return what came out; `stdin` None is closed."""
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            self.start(*arguments, stdin=stdin)
        out, err = self._capture.readouterr()
        return Outcome(code=int(end.value.code or 0), out=out, err=err)

    def start(self, *arguments: object, stdin: bytes | str | None = b"") -> None:
        """Run a command; raises SystemExit, or what the program does not catch."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        stream = None if given is None else io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
        for name, value in {"argv": ["skipstone", *map(str, arguments)], "stdin": stream}.items():
            self._monkeypatch.setattr(sys, name, value)
        main()


def without_colours(text: str) -> str:
    return re.sub(r"\033\[\d+m", "", text)  # the model writes escape characters too, but not these

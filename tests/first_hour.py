"""The first hour of a person with a chat model, as commands in a terminal, and its recording as text.

    python tests/first_hour.py MODEL.gguf > docs/first-hour.md

MODEL is a GGUF file or a checkpoint folder; it is copied as `chat-model.gguf` or `chat-model` into an empty folder,
with a cache of its own. Everything runs in a pseudo-terminal of 100 columns; needs `pexpect` and `pyte`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

COLUMNS, ROWS = 100, 400
READY = r"\x1b\[\?2004h"  # the line editor waits
DEADLINE_S = 180
PAPER = (
    "Tides are the rise and fall of sea levels. They are caused by the gravity of the Moon and the Sun, and by the\n"
    "rotation of the Earth. Most coasts have two high and two low tides each day.\n"
)
PYTHON = """\
import skipstone

with skipstone.load("{model}") as model:
    for piece in model.stream("The capital of France is", max_new_tokens=4):
        print(piece.text, end="")
    made = model.chat([{{"role": "user", "content": "Hello!"}}], max_tokens=16, temperature=0)
    print()
    print(made.text)
    print("ended by", made.finish_reason)
"""
POEM, AGAIN = "Write a short poem about the sea.", "Say the same word ten times."
LAST, DRAFTED = "tail -n 1 | cut -c 1-90", "What was drafted, and where the time went"
TALK = ("Name three colours.", "/undo", "/system Answer in one sentence.", "What is the sea?", "/stats", "/exit")
HEAD = """\
# The first hour

What a person with a chat model types first, and what the terminal shows: recorded by
`python tests/first_hour.py MODEL.gguf`, here with SmolLM2-135M-Instruct ([where to get it](first-model.md)).
It is small enough to be quick and to talk nonsense. The same steps run as a test
(`tests/sdk/cli/test_first_hour.py`).
"""


def commands(model: str) -> list[tuple[str, str]]:
    """Return what is typed outside of the chat, each with a heading."""
    near = f"{Path(model).stem}s{Path(model).suffix}"
    return [
        ("One question", f'skipstone generate {model} -p "{POEM}" -n 32'),
        ("The same question again: the same words", f'skipstone generate {model} -p "{POEM}" -n 32'),
        (
            "A document through a pipe",
            f'cat paper.txt | skipstone generate {model} -p "Summarize in one sentence:" -n 48',
        ),
        ("The bare text, continued", f'skipstone generate {model} --raw -p "The capital of France is" -n 8'),
        ("A typing error", f"skipstone generate {near} -p hi"),
        (
            "For programs",
            f'skipstone generate {model} -p "Hello!" --max-tokens 6 --json --stream -q | {LAST}',
        ),
        (DRAFTED, f'skipstone generate {model} -p "{AGAIN}" -n 64 --stats'),
        ("Python", "python hello.py"),
        ("What is kept", "skipstone cache"),
    ]


class Terminal:
    """A pseudo-terminal whose screen is read as text."""

    def __init__(self, folder: Path, program: str) -> None:
        """`program` is what the shell runs as `skipstone`, found first in the search path of commands."""
        (folder / "bin").mkdir()
        for name, line in {"skipstone": program, "python": shlex.quote(sys.executable)}.items():
            shim = folder / "bin" / name
            shim.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            shim.chmod(0o755)
        self._place = folder / "work"
        self._place.mkdir()
        self._environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "SKIPSTONE_CACHE": str(folder / "cache"),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody tells where the cursor is
        }

    @property
    def place(self) -> Path:
        """The folder in which commands run."""
        return self._place

    def run(self, command: str) -> str:
        """Return what stands on the screen when a command has ended."""
        import pexpect

        child = self._spawn(command)
        child.expect(pexpect.EOF)
        child.close()
        return self._screen(str(child.before))

    def talk(self, command: str, messages: tuple[str, ...]) -> str:
        """Return what stands on the screen when messages were typed and the program was left."""
        import pexpect

        child, shown = self._spawn(command), ""
        for message in messages:
            child.expect(READY)
            shown += f"{child.before}{child.after}"
            child.send(f"{message}\r")
        child.expect(pexpect.EOF)
        child.close()
        return self._screen(shown + str(child.before))

    def _spawn(self, command: str) -> Any:
        import pexpect

        return pexpect.spawn(
            "/bin/sh",
            ["-c", command],
            cwd=str(self._place),
            env=self._environment,
            encoding="utf-8",
            timeout=DEADLINE_S,
            dimensions=(ROWS, COLUMNS),
        )

    def _screen(self, shown: str) -> str:
        import pyte

        screen = pyte.Screen(COLUMNS, ROWS)
        pyte.Stream(screen).feed(shown)
        text = "\n".join(line.rstrip() for line in screen.display).rstrip()
        return text.replace(str(self._place.parent), "~")


def record(model: Path, folder: Path, program: str) -> str:
    """Return the recording as Markdown: the chat first, then all other commands."""
    terminal = Terminal(folder, program)
    name = "chat-model.gguf" if model.is_file() else "chat-model"
    copy = shutil.copy if model.is_file() else shutil.copytree
    copy(model, terminal.place / name)
    (terminal.place / "paper.txt").write_text(PAPER)
    (terminal.place / "hello.py").write_text(PYTHON.format(model=name))
    chat = f"skipstone chat {name} --seed 1 -n 40"
    parts = [HEAD, _part("Chat with a file", chat, terminal.talk(chat, TALK))]
    for title, command in commands(name):
        if title == "Python":
            parts.append(f"## Python\n\n```python\n{PYTHON.format(model=name)}```\n")
            parts.append(f"```\n{terminal.run(command)}\n```\n")
        else:
            parts.append(_part(title, command, terminal.run(command)))
    return "\n".join(parts)


def _part(title: str, command: str, shown: str) -> str:
    return f"## {title}\n\n```\n$ {command}\n{shown}\n```\n"


def main() -> None:
    program = f"{shlex.quote(sys.executable)} -c 'from skipstone.cli import main; main()'"
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(Path(sys.argv[1]), Path(folder), program)
    sys.stdout.write(re.sub(r"[ \t]+\n", "\n", recorded))


if __name__ == "__main__":
    main()

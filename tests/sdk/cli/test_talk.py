"""`skipstone chat` as a program of the terminal, driven through a pseudo-terminal; and its way for other programs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint

import skipstone
from skipstone.cli.talk.commands import COMMANDS
from skipstone.cli.talk.editor import is_open
from skipstone.cli.talk.rendering import MarkdownAnswer

pexpect = pytest.importorskip("pexpect", reason="pexpect drives the pseudo-terminal")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
PROGRAM = "from skipstone.cli.app import main; main()"
DEADLINE_S = 120
ANSWERED = r"tokens at [\d.]+/s"
READY = r"\x1b\[\?2004h"  # the editor takes pastes
Start = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture(scope="module")
def bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    long = make_checkpoint(max_position_embeddings=32768)
    checkpoint = shutil.copytree(long, tmp_path_factory.mktemp("talk") / "checkpoint")
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    return make_bundle(checkpoint)


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Iterator[Start]:
    """Begin a chat in a terminal of 100 columns."""
    running: list[pexpect.spawn[str]] = []

    def begin(*options: str) -> pexpect.spawn[str]:
        environment = {**os.environ, "SKIPSTONE_CACHE": str(tmp_path / "cache"), "TERM": "xterm", "NO_COLOR": "1"}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody tells where the cursor is
        words = ["-c", PROGRAM, "chat", str(bundle), "-n", "6", "--sampling", "greedy", *options]
        talk = pexpect.spawn(
            sys.executable, words, env=environment, encoding="utf-8", timeout=DEADLINE_S, dimensions=(40, 100)
        )
        talk.expect(READY)
        running.append(talk)
        return talk

    yield begin
    for talk in running:
        talk.close(force=True)


def say(talk: pexpect.spawn[str], line: str, answer: str = ANSWERED) -> None:
    talk.send(line + "\r")
    talk.expect(answer)
    talk.expect(READY)


def saved(talk: pexpect.spawn[str], file: Path) -> list[dict[str, str]]:
    """Return the messages of a talk."""
    say(talk, f"/save {file}", "messages saved")
    messages: list[dict[str, str]] = json.loads(file.read_text())
    return messages


def test_a_user_talks_takes_back_asks_again_saves_and_leaves(start: Start, tmp_path: Path) -> None:
    talk, file = start("--system", "Be brief."), tmp_path / "talk.json"
    say(talk, "Hello")
    say(talk, "And you?")
    messages = saved(talk, file)
    assert [(message["role"], message["content"]) for message in messages[::2]] == [
        ("system", "Be brief."),
        ("assistant", messages[2]["content"]),
        ("assistant", messages[4]["content"]),
    ]
    assert [message["content"] for message in messages[1::2]] == ["Hello", "And you?"]
    say(talk, "/regen")
    assert saved(talk, file) == messages, "a greedy answer is the same"
    say(talk, "/undo", "taken back: And you\\?")
    say(talk, "/system", "Be brief.")
    say(talk, "/system Be long.", "the talk stays")
    assert [message["content"] for message in saved(talk, file)[:2]] == ["Be long.", "Hello"]
    say(talk, "/stats", "tokens of the context used")
    say(talk, "/clear", "begins anew; the system prompt stays")
    say(talk, "/undo", "there is nothing to take back")
    say(talk, "/regen", "there is no question to answer again")
    say(talk, f"/load {file}", "3 messages loaded")
    talk.send("/exit\r")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0


def test_help_names_every_command_and_unknown_ones_are_refused(start: Start) -> None:
    talk = start()
    talk.send("/help\r")
    for name in COMMANDS:
        talk.expect_exact(name)
    talk.expect(READY)
    say(talk, "/hepl", "there is no command /hepl; did you mean /help")
    say(talk, "/save", "/save takes a path")
    say(talk, "/file /no/such/file", "cannot be read")
    talk.send("\x04")
    talk.expect(pexpect.EOF)


def test_a_paste_of_several_lines_is_one_turn_and_long_ones_arrive_whole(start: Start, tmp_path: Path) -> None:
    talk, file = start("--context", "30000"), tmp_path / "talk.json"
    lines = "one\ntwo\n\nfour"
    say(talk, f"\x1b[200~{lines}\x1b[201~")
    long = "".join(f"{number} " for number in range(2000))[:9000].strip()
    say(talk, f"\x1b[200~{long}\x1b[201~")
    talk.send('"""one\rtwo"""\r')
    talk.expect(ANSWERED)
    talk.expect(READY)
    talk.send("three\x1b\rfour\r")
    talk.expect(ANSWERED)
    talk.expect(READY)
    say(talk, "//slash")
    asked = [message["content"] for message in saved(talk, file) if message["role"] == "user"]
    assert asked == [lines, long, "one\ntwo", "three\nfour", "/slash"]


def test_a_file_goes_behind_the_next_message(start: Start, tmp_path: Path) -> None:
    talk, paper = start(), tmp_path / "paper.txt"
    paper.write_text("It rains.")
    say(talk, f"/file {paper}", "tokens, behind the next message")
    say(talk, "Summarize:")
    say(talk, "And now?")
    asked = [message["content"] for message in saved(talk, tmp_path / "talk.json") if message["role"] == "user"]
    assert asked == ["Summarize:\n\nIt rains.", "And now?"]


def test_ctrl_c_clears_what_is_half_typed_and_leaves_when_pressed_twice(start: Start, tmp_path: Path) -> None:
    talk = start()
    talk.send("half typ")
    talk.expect("half typ")
    talk.send("\x03")
    say(talk, "whole")
    asked = [message["content"] for message in saved(talk, tmp_path / "talk.json") if message["role"] == "user"]
    assert asked == ["whole"]
    talk.send("\x03")
    talk.expect("Ctrl-D or /exit leaves")
    talk.expect(READY)
    talk.send("\x03")
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0


def test_ctrl_c_stops_an_answer_and_the_talk_goes_on(start: Start) -> None:
    talk = start("-n", "30000", "--min-new-tokens", "30000", "--context", "32000", "--stop-loops", "0")
    talk.send("Hello\r")
    for _ in range(20):  # before the answer begins the key is the editor's
        talk.send("\x03")
        if talk.expect(["stopped", pexpect.TIMEOUT], timeout=1) == 0:
            break
    talk.expect(READY)
    assert talk.isalive()


def test_the_history_is_kept_for_its_user_alone_and_can_be_left_out(start: Start, tmp_path: Path) -> None:
    talk = start("--no-history")
    say(talk, "secret")
    assert not (tmp_path / "cache" / "chat_history").exists()
    talk = start()
    say(talk, "known")
    talk.close(force=True)
    history = tmp_path / "cache" / "chat_history"
    assert "known" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    talk = start()
    talk.send("\x1b[A")
    talk.expect("known")


def test_programs_get_an_object_for_each_answer(cli: CommandLine, bundle: Path) -> None:
    given = ["Hello", json.dumps({"role": "user", "content": "two\nlines"}), json.dumps("a string"), "{not JSON"]
    outcome = cli("chat", bundle, "-n", 4, "--sampling", "greedy", "--json", "--quiet", stdin="\n".join(given))
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    conversation = skipstone.load(bundle).chat()
    wanted = [
        conversation.reply(text, sampling="greedy", max_new_tokens=4)
        for text in ("Hello", "two\nlines", "a string", "{not JSON")
    ]
    assert [answer["text"] for answer in answers] == [made.text for made in wanted]
    assert all({"finish_reason", "stats", "token_ids"} <= answer.keys() for answer in answers)
    refused = cli("chat", bundle, "-n", 4, "--json", "--quiet", "--context", 30, stdin="x" * 200 + "\nhi")
    assert [next(iter(json.loads(line))) for line in refused.out.splitlines()] == ["error", "text"]


def test_slashes_in_a_pipe_are_text(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("chat", bundle, "-n", 4, "--json", "--quiet", "--sampling", "greedy", stdin="/help\n")
    wanted = skipstone.load(bundle).chat().reply("/help", sampling="greedy", max_new_tokens=4)
    assert json.loads(outcome.out)["text"] == wanted.text


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("", False),
        ('"""', True),
        ('"""a', True),
        ('"""a"""', False),
        ('"""a\nb"""', False),
        ('""""""', False),
        ("a", False),
    ],
)
def test_three_quotes_hold_a_message_open(text: str, is_so: bool) -> None:
    assert is_open(text) is is_so


def screen_of(pieces: list[str], *, columns: int = 40, lines: int = 24) -> list[str]:
    """Return what stands on a screen behind an answer that comes in pieces."""
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(columns, lines)
    stream = pyte.Stream(screen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skipstone.cli.talk.rendering.write", lambda text: stream.feed(text.replace("\n", "\r\n")))
        answer = MarkdownAnswer(size=lambda: (columns, lines))
        for piece in pieces:
            answer.write(piece)
        answer.close()
    return [line.rstrip() for line in screen.display]


MARKDOWN = """# Title

Some **bold** words and `code` that go on for more than one line of it.

- one
- two

```python
x = 1

y = 2
```
The end."""


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_markdown_is_rendered_the_same_however_it_comes(length: int) -> None:
    pieces = [MARKDOWN[place : place + length] for place in range(0, len(MARKDOWN), length)]
    shown = screen_of(pieces)
    assert shown == screen_of([MARKDOWN])
    text = "\n".join(shown)
    assert "**" not in text and "```" not in text and "#" not in text
    for words in ("Title", "bold", "code", "one", "two", "x = 1", "y = 2", "The end."):
        assert words in text, words


def test_what_has_left_the_screen_stays_as_it_was() -> None:
    long = "\n".join(f"- **{number}**" for number in range(40)) + "\n"
    assert "- **39**" in "\n".join(screen_of([long], lines=10))


def test_plain_text_is_not_touched() -> None:
    assert screen_of(["One line.\nAnd two.\n\nEnd."])[:4] == ["One line.", "And two.", "", "End."]

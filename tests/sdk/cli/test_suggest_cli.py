"""`skipstone suggest`: drafts as a table and as JSON, and while one types."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from command_line import CommandLine
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

import skipstone
from skipstone.cli.interactive import TypingPage
from skipstone.language_model import LanguageModel

PROMPT = "import os\nimpor"


@pytest.fixture(scope="module")
def pebble() -> LanguageModel:
    return skipstone.load("pebble", threads=1)


def test_the_table_shows_the_drafts_and_standard_error_the_time(cli: CommandLine, pebble: LanguageModel) -> None:
    run = cli("suggest", "pebble", "-p", PROMPT, "-k", 2, "-n", 4, "--method", "branch")
    drafts = pebble.suggest(PROMPT, num_drafts=2, max_new_tokens=4, method="branch")
    head, *lines = run.out.splitlines()
    assert head.split() == ["text", "score"]
    assert [line.rsplit("  ", 1)[0].strip() for line in lines] == [repr(draft.text) for draft in drafts]
    assert len({len(line) for line in lines}) == 1
    assert run.err.startswith("2 drafts by branch in ") and run.err.endswith(" ms\n")


def test_standard_error_names_the_way_that_auto_takes(cli: CommandLine, pebble: LanguageModel) -> None:
    chosen = pebble.choose_way(PROMPT, num_drafts=16, max_new_tokens=3)
    run = cli("suggest", "pebble", "-p", PROMPT, "-k", 16, "-n", 3, "--threads", 1)
    assert run.err.startswith(f"16 drafts by {chosen.name} in ")


def test_json_holds_text_score_and_tokens(cli: CommandLine) -> None:
    found = json.loads(cli("suggest", "pebble", "-p", PROMPT, "-n", 3, "--json", "-q").out)
    assert [set(draft) for draft in found] == [{"text", "score", "token_ids"}] * 3
    assert found[0]["text"].startswith("t ")


def test_words_can_be_left_as_they_are(cli: CommandLine) -> None:
    run = cli("suggest", "pebble", "-p", PROMPT, "-n", 3, "--json", "-q", "--no-complete-words")
    assert not any(draft["text"].startswith("t ") for draft in json.loads(run.out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "guess"], "unknown method 'guess'"),
        (["--interactive", "--json"], "leave one out"),
        (["--interactive"], "needs a terminal"),
        (["--ngrams", "nowhere.ngrams"], "nowhere.ngrams"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(cli: CommandLine, options: list[str], message: str) -> None:
    run = cli("suggest", "pebble", "-p", "x", *options)
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1


def test_a_missing_library_is_named_with_its_installation(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True, raising=False)
    run = cli("suggest", "pebble", "--interactive")
    assert "pip install skipstone[interactive]" in run.err or "needs a terminal" in run.err


def test_generate_completes_words_where_it_is_asked_to(cli: CommandLine) -> None:
    assert cli("generate", "pebble", "-p", PROMPT, "-n", 3, "--complete-words", "-q").out.startswith("t ")
    assert not cli("generate", "pebble", "-p", PROMPT, "-n", 3, "-q").out.startswith("t ")
    run = cli("generate", "pebble", "-p", PROMPT, "--complete-words", "--show-drafts")
    assert (run.code, run.err.count("\n")) == (2, 1)


class Typist:
    """Types on a page as a user does, and waits until it shows what was expected."""

    def __init__(self, model: LanguageModel, keys: PipeInput, text: str = "") -> None:
        suggester = model.suggester(max_new_tokens=3)
        self.page, self._keys, self.result = TypingPage(suggester, text, input=keys, output=DummyOutput()), keys, ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.result = self.page.run()

    def type(self, keys: str) -> None:
        self._keys.send_text(keys)

    def wait(self, condition: Callable[[TypingPage], bool]) -> None:
        end = time.monotonic() + 10
        while not condition(self.page):
            assert time.monotonic() < end, self.page._below()
            time.sleep(0.002)

    def leave(self, key: str = "\x04") -> str:
        self.type(key)
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.result


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def is_whole(page: TypingPage) -> bool:
    return bool(page.drafts) and max(len(draft.token_ids) for draft in page.drafts) == 3


def test_suggestions_stand_under_what_is_typed_and_tab_takes_one(pebble: LanguageModel, keys: PipeInput) -> None:
    typist = Typist(pebble, keys, "import os\n")
    typist.type("impor")
    typist.wait(lambda page: page._asked == PROMPT and is_whole(page))
    drafts = typist.page.drafts
    assert [draft.text for draft in drafts] == [draft.text for draft in pebble.suggest(PROMPT, max_new_tokens=3)]
    shown = "".join(text for _, text in typist.page._below())
    assert all(repr(draft.text) in shown for draft in drafts)
    assert " ms. " in shown
    typist.type("\t")
    typist.wait(lambda page: page._asked == PROMPT + drafts[0].text and is_whole(page))
    assert typist.leave() == PROMPT + drafts[0].text


@pytest.mark.parametrize(("typed", "number"), [("\x1b[B\t", 1), ("\x1b[A\t", 2), ("\x1b2", 1), ("\x1b3", 2)])
def test_arrows_and_numbers_choose(pebble: LanguageModel, keys: PipeInput, typed: str, number: int) -> None:
    typist = Typist(pebble, keys, PROMPT)
    typist.wait(is_whole)
    drafts = typist.page.drafts
    typist.type(typed)
    typist.wait(lambda page: page._asked != PROMPT)
    assert typist.leave("\x03") == PROMPT + drafts[number].text


def test_keys_that_come_fast_leave_the_last_text_only(pebble: LanguageModel, keys: PipeInput) -> None:
    typist = Typist(pebble, keys)
    typist.type("def read_json(path):\r    retu")
    typist.wait(lambda page: page._asked.endswith("retu") and is_whole(page))
    assert typist.page.drafts[0].text.startswith("rn")
    assert typist.leave() == "def read_json(path):\n    retu"


def test_without_drafts_tab_does_nothing(pebble: LanguageModel, keys: PipeInput) -> None:
    typist = Typist(pebble, keys)
    typist.type("\t\x1b1")
    assert typist.leave() == ""

"""`generate` asks a model that has a chat template, joins what is piped to it, and says why an answer is empty."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from command_line import CommandLine
from conftest import MakeBundle

import skipstone
from skipstone.cli.standard_input import read_document
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
TWELVE = ("-n", 12, "--min-new-tokens", 12)
QUESTION = "What is the time?"
PROGRAM = Path(sys.executable).parent / "skipstone"


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("asked") / "checkpoint")
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    return make_bundle(checkpoint)


@pytest.fixture(scope="module")
def model(bundle: Path) -> LanguageModel:
    return skipstone.load(bundle)


@pytest.fixture(scope="module")
def base_bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


def test_a_prompt_is_a_question_of_a_user(cli: CommandLine, bundle: Path, model: LanguageModel) -> None:
    asked = model.chat(
        [{"role": "user", "content": QUESTION}], sampling="greedy", max_new_tokens=12, min_new_tokens=12
    ).text
    assert cli("generate", bundle, "-p", QUESTION, *TWELVE).out == asked + "\n"
    assert cli("generate", bundle, *TWELVE, stdin=QUESTION + "\n").out == asked + "\n", "the line's end is no question"
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    briefly = model.chat(told, sampling="greedy", max_new_tokens=12, min_new_tokens=12).text
    assert cli("generate", bundle, "-p", QUESTION, *TWELVE, "--system", "Be brief.").out == briefly + "\n"


def test_raw_continues_the_text(cli: CommandLine, bundle: Path, model: LanguageModel) -> None:
    wanted = model.generate(QUESTION, max_new_tokens=12, min_new_tokens=12).text
    assert cli("generate", bundle, "-p", QUESTION, *TWELVE, "--raw").out == wanted + "\n"


def test_models_without_a_template_go_on_as_before(cli: CommandLine, base_bundle: Path) -> None:
    wanted = skipstone.load(base_bundle).generate(QUESTION, max_new_tokens=12, min_new_tokens=12).text
    assert cli("generate", base_bundle, "-p", QUESTION, *TWELVE).out == wanted + "\n"
    outcome = cli("generate", base_bundle, "-p", QUESTION, "--system", "Be brief.")
    assert (outcome.code, outcome.out) == (2, "")
    assert "has no chat template" in outcome.err and "leave --system out" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--raw", "--system", "Be brief."), "leave one of them out"),
        (("--complete-words", "--system", "Be brief."), "leave one out"),
        (("--json", "--stream", "--samples", "2", "--temperature", "1"), "--stream is for one text"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    cli: CommandLine, bundle: Path, arguments: tuple[str, ...], told: str
) -> None:
    outcome = cli("generate", bundle, "-p", QUESTION, *arguments)
    assert outcome.code == 2
    assert told in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_an_empty_question_is_refused(cli: CommandLine, bundle: Path, stdin: str) -> None:
    outcome = cli("generate", bundle, stdin=stdin)
    assert outcome.code == 2
    assert "the prompt is empty" in outcome.err


def test_an_empty_answer_says_why(cli: CommandLine, bundle: Path, model: LanguageModel) -> None:
    stop_id = model.chat([{"role": "user", "content": QUESTION}], sampling="greedy").token_ids[0]
    assert stop_id in model.runtime.manifest.stop_ids, "the random weights say so"
    name = model.spell(stop_id).decode()
    outcome = cli("generate", bundle, "-p", QUESTION)
    assert outcome.out == "\n"
    assert f"the answer is empty: the model ends it at once with {name}; add --min-new-tokens 8" in outcome.err
    text = model.chat([{"role": "user", "content": QUESTION}], sampling="greedy", min_new_tokens=4).text
    assert (
        "it meets a --stop text at once"
        in cli("generate", bundle, "-p", QUESTION, "--stop", text[:1], "--min-new-tokens", 4).err
    )


def test_json_lines_come_piece_by_piece(cli: CommandLine, bundle: Path) -> None:
    arguments = ("generate", bundle, "-p", QUESTION, *TWELVE, "--json", "--logprobs", 2)
    whole = json.loads(cli(*arguments).out)
    lines = [json.loads(line) for line in cli(*arguments, "--stream").out.splitlines()]
    assert len(lines) > 1
    assert "".join(line["text"] for line in lines) == whole["text"]
    for name in ("token_ids", "logprobs"):
        assert [entry for line in lines for entry in line[name]] == whole[name]
    assert [("stats" in line, line.get("finish_reason")) for line in lines[:-1]] == [(False, None)] * (len(lines) - 1)
    assert lines[-1]["finish_reason"] == whole["finish_reason"]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    sys.stdin.close()


@pytest.mark.usefixtures("given")
def test_a_file_on_standard_input_is_a_document(
    cli: CommandLine, bundle: Path, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = tmp_path / "paper.txt"
    paper.write_text("It rains.\n")
    monkeypatch.setattr(sys, "stdin", paper.open())
    assert read_document() == "It rains.\n"


def test_a_document_stands_behind_what_is_asked(bundle: Path, model: LanguageModel) -> None:
    asked = [{"role": "user", "content": "Summarize:\n\nIt rains."}]
    wanted = model.chat(asked, sampling="greedy", max_new_tokens=6, min_new_tokens=6).text
    command = [PROGRAM, "generate", bundle, "-p", "Summarize:", "-n", "6", "--min-new-tokens", "6", "-q"]
    run = subprocess.run(command, input="It rains.\n", capture_output=True, text=True, check=True)
    assert run.stdout == wanted + "\n"
    with Path(os.devnull).open() as nothing:
        alone = subprocess.run(command, stdin=nothing, capture_output=True, text=True, check=True)
    asked = [{"role": "user", "content": "Summarize:"}]
    assert alone.stdout == model.chat(asked, sampling="greedy", max_new_tokens=6, min_new_tokens=6).text + "\n"


def test_a_pipe_in_which_nothing_comes_is_waited_for_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for quiet in (False, True):
        reading, writing = os.pipe()
        late = Timer(0.05, lambda end: os.write(end, b"late") and os.close(end), args=[writing])
        with os.fdopen(reading) as source:
            monkeypatch.setattr(sys, "stdin", source)
            late.start()
            assert read_document(quiet=quiet, patience_s=0.001) == "late"
        late.join()
        said = "waiting for the text on standard input; where none comes, add < /dev/null\n"
        assert capfd.readouterr().err == ("" if quiet else said)


def test_a_closed_standard_input_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_document() == ""


def test_tokens_are_a_prompt_too(model: LanguageModel) -> None:
    token_ids = model.encode(QUESTION)
    assert (
        model.generate(token_ids, max_new_tokens=6, min_new_tokens=6).text
        == model.generate(QUESTION, max_new_tokens=6, min_new_tokens=6).text
    )
    for wrong, told in (([], "the prompt is empty"), ([-1], "holds -1, which is no token"), ([10**6], "is no token")):
        with pytest.raises(ConfigError, match=told):
            list(model.stream(wrong))


def test_tokens_spell_the_text(model: LanguageModel) -> None:
    made = model.generate("a", max_new_tokens=24)
    spelled = b"".join(model.spell(token_id) for token_id in made.token_ids)
    assert spelled.decode(errors="replace") == made.text

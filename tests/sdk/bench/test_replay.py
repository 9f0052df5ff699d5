"""Replay: recordings read with care, and the arithmetic of a method on a text that is known beforehand."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from skipstone.bench import Recording, ReplayResult, read_recordings, replay_texts
from skipstone.errors import ConfigError
from skipstone.runtime.costs import MAX_ROWS, CostCurve
from skipstone.runtime.engine import Model, SharedStores
from skipstone.runtime.methods import registered_drafters
from skipstone.runtime.methods.auto import LOOP_S
from skipstone.runtime.text import SuffixMemory

# One row 1 ms, each further one 0.1 ms.
CURVE = CostCurve(rows=(1, 16), contexts=(0,), seconds=((0.001, 0.0025),))


@pytest.fixture
def model(tiny: Model) -> Model:
    """The tiny model with a made-up cost curve; of its tokenizer every character of a digit is a token."""
    fresh = copy.copy(tiny)
    fresh.shared = SharedStores()
    fresh.shared.get("cost curve", lambda: CURVE)
    return fresh


def num_tokens(model: Model, text: str) -> int:
    return len(model.tokenizer.encode(text, add_special_tokens=False))


# Reading


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_json_lines_hold_prompts_and_replies(tmp_path: Path) -> None:
    records = [{"prompt": "a", "reply": "b"}, {"prompt": "", "reply": "c\nd", "model": "ignored"}]
    path = written(tmp_path, "texts.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert read_recordings(path) == [Recording("a", "b"), Recording("", "c\nd")]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_a_line_ends_at_a_newline_and_at_no_other_character(tmp_path: Path, character: str) -> None:
    record = {"prompt": "a", "reply": f"b{character}c"}
    path = written(tmp_path, "texts.jsonl", json.dumps(record, ensure_ascii=False) + "\n")
    assert read_recordings(path) == [Recording("a", f"b{character}c")]


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, "texts.jsonl", '{"prompt": "a", "reply": "b"}\r\n\r\n\n')
    assert read_recordings(path) == [Recording("a", "b")]


def test_a_text_file_is_one_recording_without_a_prompt(tmp_path: Path) -> None:
    assert read_recordings(written(tmp_path, "text.md", "Über\n")) == [Recording("", "Über\n")]


def test_of_a_folder_all_python_files_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b.py", "sub/a.py", "a.py", "notes.txt"):
        written(tmp_path, name, name)
    (tmp_path / "folder.py").mkdir()
    assert [recording.reply for recording in read_recordings(tmp_path)] == ["a.py", "b.py", "sub/a.py"]


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", "null", '{"prompt": "a"}', '{"reply": "b"}', '{"prompt": 3, "reply": "b"}', '"\\ud800"']
)
def test_a_line_that_is_no_recording_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, "texts.jsonl", '{"prompt": "a", "reply": "b"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"texts\.jsonl, line 2: an object with prompt and reply is wanted"):
        read_recordings(path)


def test_half_a_character_in_a_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "texts.jsonl", '{"prompt": "a", "reply": "\\ud83e"}\n')
    with pytest.raises(ConfigError, match=r"texts\.jsonl, line 1: "):
        read_recordings(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    written(tmp_path, "good.py", "x = 1\n")
    written(tmp_path, "later/bad.py", b"ab\xff")
    with pytest.raises(ConfigError, match=r"later/bad\.py is not UTF-8 text: invalid start byte at byte 2"):
        read_recordings(tmp_path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.txt cannot be read: No such file"):
        read_recordings(tmp_path / "missing.txt")


@pytest.mark.skipif(os.name != "posix", reason="links to nowhere are a thing of POSIX")
def test_a_link_to_nowhere_is_no_file(tmp_path: Path) -> None:
    written(tmp_path, "good.py", "x = 1\n")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert read_recordings(tmp_path) == [Recording("", "x = 1\n")]


@pytest.mark.parametrize("name", ["", "texts.jsonl", "empty.py", "blank.jsonl"])
def test_where_there_is_no_text_to_replay_that_is_said(tmp_path: Path, name: str) -> None:
    if name:
        written(tmp_path, name, '{"prompt": "a", "reply": ""}\n' if name == "blank.jsonl" else "")
    with pytest.raises(ConfigError, match=r"holds no text to replay; give a \.jsonl with prompt and reply"):
        read_recordings(tmp_path / name)


# Arithmetic


def test_plain_decoding_makes_a_call_for_each_token(model: Model) -> None:
    result = replay_texts(model, [Recording("12345", "67890")], "plain", source="by hand")
    assert (result.source, result.method, result.texts, result.num_bytes) == ("by hand", "plain", 1, 5)
    assert (result.tokens, result.calls, result.drafted, result.accepted) == (5, 5, 0, 0)
    assert result.plain_s == result.model_s == pytest.approx(5 * (1e-3 + LOOP_S))
    assert result.tokens_per_call == 1
    assert result.ratio == pytest.approx(result.plain_s / (result.model_s + result.draft_s)) and result.ratio < 1


def test_guesses_are_paid_for_and_counted(model: Model) -> None:
    # 1 2 3 4 is followed by 5 6 7 8 in the prompt. The reply begins with a plain call, which gives the 4; then the four
    # tokens behind 1 2 3 4 are guessed, of which 5 6 7 are right, and 0 ends the text.
    result = replay_texts(model, [Recording("12345678123", "45670")], "ngram")
    assert (result.tokens, result.calls) == (5, 2)
    assert (result.drafted, result.accepted) == (3, 3), "the last token of a text is never guessed: no room behind it"
    assert result.model_s == pytest.approx(1e-3 + 1.3e-3 + 2 * LOOP_S)
    assert result.plain_s == pytest.approx(5 * (1e-3 + LOOP_S))
    assert result.tokens_per_call == 2.5


def test_wrong_guesses_cost_their_rows(model: Model) -> None:
    result = replay_texts(model, [Recording("12345678123", "4590123")], "ngram")
    # 4; then 5 and 9 for the guesses 5 6 7 8; then 9 0 1 2 3, of which the 2 is guessed from the 1, the 3 from 1 2.
    assert result.tokens == 7
    assert result.accepted == result.tokens - result.calls
    assert result.drafted > result.accepted
    # All costs lie on one line, so they can be added up.
    assert result.model_s == pytest.approx(result.calls * (1e-3 + LOOP_S) + 1e-4 * result.drafted)


def test_costs_follow_the_context(model: Model) -> None:
    rising = CostCurve(rows=(1, 16), contexts=(0, 100), seconds=((0.001, 0.0025), (0.003, 0.0045)))
    model.shared = SharedStores()
    model.shared.get("cost curve", lambda: rising)
    prompt = "0" * 50
    assert num_tokens(model, prompt) == 50
    result = replay_texts(model, [Recording(prompt, "12")], "plain")
    assert result.model_s == pytest.approx(2 * (2e-3 + LOOP_S))


def test_a_text_without_a_prompt_is_its_own(model: Model) -> None:
    text = "0123456789" * 2
    result = replay_texts(model, [Recording("", text)], "plain")
    assert result.tokens == num_tokens(model, text) - num_tokens(model, text) // 5
    assert result.num_bytes == len(text)


def test_a_long_text_is_replayed_piece_by_piece(model: Model) -> None:
    text = "0123456789" * 60
    room = model.manifest.context_length - MAX_ROWS
    pieces = [room, room, 600 - 2 * room]
    result = replay_texts(model, [Recording("", text)], "plain")
    assert result.tokens == sum(size - size // 5 for size in pieces)
    assert result.texts == 1


def test_of_what_does_not_fit_the_context_the_prompt_may_take_three_quarters(model: Model) -> None:
    room = model.manifest.context_length - MAX_ROWS
    for prompt_size, kept in ((10, 10), (400, room * 3 // 4)):
        result = replay_texts(model, [Recording("7" * prompt_size, "0123456789" * 60)], "plain")
        assert result.tokens == room - kept


def test_progress_is_told_in_bytes(model: Model) -> None:
    told: list[int] = []
    replay_texts(model, [Recording("1", "23"), Recording("", "€" * 4)], "plain", on_progress=told.append)
    assert told == [2, 12]


@pytest.mark.parametrize("recordings", [[], [Recording("1", "")], [Recording("", "1")]])
def test_recordings_without_a_token_to_write_are_refused(model: Model, recordings: list[Recording]) -> None:
    with pytest.raises(ConfigError, match="no text to replay"):
        replay_texts(model, recordings, "plain")


# Methods


@pytest.mark.parametrize("method", ["ngram", "suffix", "suffix,ngram", "auto"])
def test_methods_that_need_only_text_gain_where_text_repeats(model: Model, method: str) -> None:
    slow = CostCurve(rows=(1, 16), contexts=(0,), seconds=((0.05, 0.12),))  # beside which planning takes no time
    model.shared = SharedStores()
    model.shared.get("cost curve", lambda: slow)
    result = replay_texts(model, [Recording("", "def add(first, second):\n    return first + second\n" * 8)], method)
    assert result.method == method
    assert result.accepted == result.tokens - result.calls
    assert result.model_s < 0.7 * result.plain_s


def test_auto_makes_no_call_dearer_than_it_must_where_nothing_repeats(model: Model) -> None:
    steep = CostCurve(rows=(1, 2, 16), contexts=(0,), seconds=((0.001, 0.002, 0.016),))
    model.shared = SharedStores()
    model.shared.get("cost curve", lambda: steep)
    result = replay_texts(model, [Recording("", "0123456789" * 20)], "auto")
    assert (result.drafted, result.calls) == (0, result.tokens)


@pytest.mark.parametrize("method", [name for name in registered_drafters() if name not in ("ngram", "suffix")])
def test_methods_that_need_more_than_text_are_refused_by_name(model: Model, method: str) -> None:
    for asked in (method, f"suffix,{method}"):
        with pytest.raises(ConfigError, match=f"{asked} needs more than text"):
            replay_texts(model, [Recording("12", "34")], asked)


def test_an_unknown_method_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="decoding method 'magic' is not known"):
        replay_texts(model, [Recording("12", "34")], "magic")


def test_each_method_starts_with_nothing_remembered(model: Model) -> None:
    recordings = [Recording("9", "0123456789" * 4)]

    def counts(result: ReplayResult) -> tuple[int, int, int]:
        return (result.calls, result.drafted, result.accepted)

    first = replay_texts(model, recordings, "suffix")
    replay_texts(model, recordings, "ngram")
    assert counts(replay_texts(model, recordings, "suffix")) == counts(first)


def test_within_a_replay_earlier_texts_are_remembered(model: Model) -> None:
    recording = Recording("9", "3141592653589793238462643383")
    once, twice = (replay_texts(model, [recording] * count, "suffix") for count in (1, 2))
    assert twice.accepted - once.accepted > once.accepted
    assert twice.tokens == 2 * once.tokens


def test_nothing_of_a_replay_is_left_in_the_model(model: Model) -> None:
    memory = SuffixMemory(capacity=256)
    model.shared.get("suffix memory", lambda: memory)
    for method in ("suffix", "auto"):
        replay_texts(model, [Recording("1", "234")], method)
    assert memory.index.end == SuffixMemory(capacity=256).index.end
    assert model.shared.get("planner knowledge", lambda: None) is None


def test_no_model_call_is_made(model: Model, fed: list[tuple[int, ...]]) -> None:
    for method in ("plain", "ngram", "suffix", "auto"):
        replay_texts(model, [Recording("1", "0123456789" * 5)], method)
    assert fed == []

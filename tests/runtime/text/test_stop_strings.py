"""Stop strings: nothing of them is ever shown, and nothing else is ever lost or kept waiting."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.text import StopStrings

LETTERS = "ab"
stop_lists = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)
piece_lists = st.lists(st.text(LETTERS, max_size=4), max_size=12)


def stream(stop: list[str], pieces: list[str]) -> str:
    stops = StopStrings(stop)
    return "".join(stops.push(piece)[0] for piece in pieces) + stops.flush()


def cut_at_first_stop(text: str, stop: list[str]) -> str:
    """The obvious way: look at every position, first to last."""
    for start in range(len(text)):
        if any(text[start:].startswith(one) for one in stop):
            return text[:start]
    return text


@given(stop_lists, piece_lists)
def test_the_output_is_the_text_up_to_the_first_stop_string_however_it_is_cut(
    stop: list[str], pieces: list[str]
) -> None:
    assert stream(stop, pieces) == cut_at_first_stop("".join(pieces), stop)


@given(stop_lists, piece_lists)
def test_only_the_longest_end_that_could_become_a_stop_string_is_held_back(stop: list[str], pieces: list[str]) -> None:
    stops = StopStrings(stop)
    text = shown = ""
    for piece in pieces:
        text += piece
        safe, hit = stops.push(piece)
        shown += safe
        if hit:
            return
        beginnings = {one[:length] for one in stop for length in range(1, len(one))}
        held = next((text[start:] for start in range(len(text)) if text[start:] in beginnings), "")
        assert shown + held == text


@given(stop_lists, piece_lists)
def test_hit_says_whether_the_text_was_cut(stop: list[str], pieces: list[str]) -> None:
    stops = StopStrings(stop)
    for piece in pieces:
        assert stops.push(piece)[1] is stops.hit
    stops.flush()
    assert stops.hit is any(one in "".join(pieces) for one in stop)


def test_a_stop_string_split_over_two_pieces_never_leaks() -> None:
    stops = StopStrings(["<|end|>"])
    assert stops.push("Hello<|e") == ("Hello", False)
    assert stops.push("nd|>ignored") == ("", True)
    assert stops.flush() == ""


def test_a_false_alarm_is_shown_as_soon_as_it_is_one() -> None:
    stops = StopStrings(["\n\n"])
    assert stops.push("one\n") == ("one", False)
    assert stops.push("two") == ("\ntwo", False)


def test_nothing_is_shown_after_a_hit() -> None:
    stops = StopStrings(["."])
    assert stops.push("a.b") == ("a", True)
    assert stops.push("c") == ("", True)
    assert stops.flush() == ""


def test_the_earliest_start_wins_even_when_another_stop_string_is_whole_before() -> None:
    stops = StopStrings(["abcd", "bc"])
    assert stops.push("abc") == ("", False)
    assert stops.push("d") == ("", True)


def test_a_whole_stop_string_that_waited_for_an_earlier_one_counts_at_the_end() -> None:
    stops = StopStrings(["abcd", "bc"])
    assert stops.push("abc") == ("", False)
    assert stops.flush() == "a"
    assert stops.hit


def test_of_two_stop_strings_with_the_same_start_the_shorter_does_not_wait() -> None:
    assert StopStrings(["stopped", "stop"]).push("a stop") == ("a ", True)


def test_without_stop_strings_all_text_passes_at_once() -> None:
    stops = StopStrings([])
    assert stops.push("text") == ("text", False)
    assert stops.flush() == ""
    assert not stops.hit


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopStrings(["a", ""])


def test_a_single_string_instead_of_a_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"write \['END'\]"):
        StopStrings("END")


# Special tokens: no text of their own, and a name that a stop string may hold

NAMES = {"<x>": "a special token", "<ab>": "another"}
tokens = st.lists(st.sampled_from(["a", "b", "ab", "<x>", "<ab>"]), max_size=12)
named_stops = st.lists(
    st.lists(st.sampled_from(["a", "b", "<x>", "<ab>"]), min_size=1, max_size=3).map("".join), max_size=3
)


def stream_of_tokens(stop: list[str], pieces: list[str]) -> str:
    stops = StopStrings(stop, NAMES)
    pushed = (stops.push("", name=piece) if piece in NAMES else stops.push(piece) for piece in pieces)
    return "".join(text for text, _ in pushed) + stops.flush()


def cut_where_a_stop_string_starts(stop: list[str], pieces: list[str]) -> str:
    """The obvious way: every letter with the text before it, that which is shown and that with the names."""
    letters = [(letter, piece not in NAMES) for piece in pieces for letter in piece]
    spelled, shown = "".join(letter for letter, _ in letters), ""
    rest = "".join(letter for letter, is_shown in letters if is_shown)
    for place, (letter, is_shown) in enumerate(letters):
        for one in stop:
            has_name = any(name in one for name in NAMES)
            if (has_name and spelled.startswith(one, place)) or (not has_name and is_shown and rest.startswith(one)):
                return shown
        if is_shown:
            shown, rest = shown + letter, rest[1:]
    return shown


@given(named_stops, tokens)
def test_a_stop_string_with_the_name_of_a_special_token_ends_the_text_before_it_and_no_name_shows(
    stop: list[str], pieces: list[str]
) -> None:
    assert stream_of_tokens(stop, pieces) == cut_where_a_stop_string_starts(stop, pieces)


def test_text_before_a_name_waits_only_while_it_may_begin_a_stop_string() -> None:
    stops = StopStrings(["a<x>\n"], NAMES)
    assert stops.push("ba") == ("b", False)
    assert stops.push("", name="<x>") == ("", False)
    assert stops.push("c") == ("ac", False)
    stops.push("a", name="<x>")
    assert stops.push("\nrest") == ("", True)


def test_a_hundred_thousand_stop_strings_cost_a_text_next_to_nothing() -> None:
    stops = StopStrings([f"{number:05d} stops the text here" for number in range(100_000)])
    start = time.thread_time()
    shown = "".join(stops.push(f"{number} words ")[0] for number in range(2000))
    assert shown.startswith("0 words 1 words ") and not stops.hit
    assert time.thread_time() - start < 2  # 1 ms a token
    assert stops.push("00017 stops the text here and on") == ("", True) or stops.hit

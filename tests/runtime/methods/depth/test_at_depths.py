"""What exits say along a text: the logits that the sequence itself gives at each depth, and levels made of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Draft, Model, exit_stages
from skipstone.runtime.methods.depth import at_depths, calibrate, depth_hidden, depth_logits, text_windows

TEXT = "def add(first, second):\n    return first + second\n\nThe quick brown fox. " * 40


def changed(model: Model, **facts: Any) -> Model:
    """Return the same model with other facts in its manifest."""
    other = copy.copy(model)
    other.manifest = replace(model.manifest, **facts)
    return other


# A call takes 128 tokens, so the second text is read in two.
TEXTS = [(13, range(13)), (140, (0, 5, 126, 127, 128, 129, 139))]


@pytest.mark.parametrize(("num_tokens", "places"), TEXTS, ids=["one call", "two calls"])
def test_each_depth_gives_what_a_peek_or_a_whole_call_gives(
    tiny_stages: Model, num_tokens: int, places: SequenceOf[int]
) -> None:
    token_ids = np.random.default_rng(0).integers(0, 307, size=num_tokens).tolist()
    pieces = list(depth_logits(tiny_stages, token_ids))
    found = {depth: np.concatenate([piece[depth] for piece in pieces]) for depth in pieces[0]}
    assert sorted(found) == [1, 2, 3, 4]
    for place in places:
        whole = tiny_stages.new_sequence()
        whole.append(token_ids[: place + 1])
        np.testing.assert_allclose(found[4][place], whole.extend(Draft.empty())[0], atol=1e-4)
    for depth, num_stages in exit_stages(tiny_stages).items():
        early = tiny_stages.new_sequence()
        early.append(token_ids)
        for place in places:
            np.testing.assert_allclose(
                found[depth][place], early.peek(token_ids[: place + 1], num_stages=num_stages), atol=1e-4
            )


@pytest.mark.parametrize(("num_tokens", "places"), TEXTS, ids=["one call", "two calls"])
def test_hidden_states_around_the_last_stage_are_those_of_a_peek_at_them(
    tiny_stages: Model, num_tokens: int, places: SequenceOf[int]
) -> None:
    token_ids = np.random.default_rng(1).integers(0, 307, size=num_tokens).tolist()
    pieces = list(at_depths(tiny_stages, token_ids))
    assert pieces[0][1].before is None and "saturation" not in pieces[0][1].metrics
    with pytest.raises(ConfigError, match="the first stage reads tokens"):
        pieces[0][1].shown("saturation")
    for depth, num_stages in exit_stages(tiny_stages).items():
        if num_stages == 1:
            continue
        found = np.concatenate([piece[depth].shown("saturation") for piece in pieces])
        assert found.shape == (num_tokens, 2, 52)
        early = tiny_stages.new_sequence()
        early.append(token_ids)
        for place in places:
            theirs = early.peek_hidden(token_ids[: place + 1], num_stages=num_stages)
            np.testing.assert_allclose(found[place], theirs, atol=1e-4)
            logits = np.concatenate([piece[depth].logits for piece in pieces])[place]
            np.testing.assert_allclose(logits, early.peek_logits(), atol=1e-4)


def test_hidden_states_alone_need_no_head(tiny_stages: Model) -> None:
    token_ids = [5, 6, 7]
    (alone,), (both,) = depth_hidden(tiny_stages, token_ids), at_depths(tiny_stages, token_ids)
    assert {*alone} == {*both} == {1, 2, 3, 4}
    for depth, hidden in alone.items():
        np.testing.assert_allclose(hidden, both[depth].hidden, atol=1e-5)
    (empty,) = at_depths(tiny_stages, token_ids, head=False)
    assert empty[4].logits.shape == (0, 307)


def test_a_stage_that_ends_where_no_exit_is_still_bounds_the_last_one(
    tiny_stages: Model,
) -> None:
    (wanted,) = at_depths(tiny_stages, [5, 6, 7])
    (found,) = at_depths(changed(tiny_stages, exits=(3,)), [5, 6, 7])
    assert {*found} == {3, 4}
    np.testing.assert_array_equal(found[3].shown("saturation"), wanted[3].shown("saturation"))
    np.testing.assert_array_equal(found[4].logits, wanted[4].logits)


def test_windows_hold_all_tokens_but_short_rests(tiny_stages: Model) -> None:
    token_ids = tiny_stages.tokenizer.encode(TEXT)
    windows = text_windows(tiny_stages, [TEXT, "ab"])
    assert {len(window) for window in windows[:-1]} == {256}, "the tiny model sees 256 tokens"
    assert [token_id for window in windows for token_id in window] == token_ids


def test_windows_end_before_positions_change(tiny_stages: Model) -> None:
    long_rope = changed(tiny_stages, long_rope_from=40)
    assert {len(window) for window in text_windows(long_rope, [TEXT])[:-1]} == {40}


def test_a_calibration_tells_how_often_each_exit_agrees(tiny_stages: Model) -> None:
    counts: list[int] = []
    found = calibrate(tiny_stages, [TEXT] * 3, on_progress=counts.append)
    assert found.num_tokens == sum(counts) == sum(map(len, text_windows(tiny_stages, [TEXT] * 3)))
    assert [one.num_layers for one in found.exits] == [1, 2, 3]
    agree = [
        logits[3].argmax(axis=1) == logits[4].argmax(axis=1)
        for window in text_windows(tiny_stages, [TEXT])
        for logits in depth_logits(tiny_stages, window)
    ]
    assert found.exits[2].agreement == pytest.approx(np.concatenate(agree).mean(), abs=1e-9)
    assert [one.last_stage_from for one in found.exits] == [0, 1, 2]


def test_measures_share_the_error_rate_of_their_exit_and_saturation_needs_two_stages(
    tiny_stages: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = import_module("skipstone.runtime.methods.depth.calibrate")
    asked: list[tuple[int, tuple[str, ...]]] = []
    levels_of = calibration.exit_levels

    def noting(num_layers: int, confidences: Any, agrees: Any, **options: Any) -> Any:
        asked.append((num_layers, tuple(confidences)))
        assert {values.shape for values in confidences.values()} == {agrees.shape}
        return levels_of(num_layers, confidences, agrees, **options)

    monkeypatch.setattr(calibration, "exit_levels", noting)
    calibrate(tiny_stages, [TEXT] * 3)
    of_logits = ("gap", "top", "entropy")
    assert asked == [(1, of_logits), (2, (*of_logits, "saturation")), (3, (*of_logits, "saturation"))]


def test_a_short_text_is_refused_with_how_many_tokens_are_wanted(tiny_stages: Model) -> None:
    count = len(tiny_stages.tokenizer.encode(TEXT[:300]))
    with pytest.raises(ConfigError, match=f"the text has {count} tokens; a calibration wants at least 2000"):
        calibrate(tiny_stages, [TEXT[:300]])


def test_a_bundle_without_exits_is_refused_with_the_command_that_makes_one(tiny: Model) -> None:
    with pytest.raises(ConfigError, match=r"no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`"):
        calibrate(tiny, [TEXT])

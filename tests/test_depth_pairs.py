"""What exits say along a text: the logits that the sequence itself gives at each depth, and levels made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.depth import calibrate
from skipstone.runtime.depth import pairs as pairs_module
from skipstone.runtime.depth.pairs import depth_logits, exit_stages, text_windows
from skipstone.runtime.draft import Draft
from skipstone.runtime.model import Model

TEXT = "def add(first, second):\n    return first + second\n\nThe quick brown fox. " * 40


@pytest.mark.parametrize("most_rows", [128, 5])
def test_each_depth_gives_what_a_peek_or_a_whole_call_gives(
    tiny_stages: Model, monkeypatch: pytest.MonkeyPatch, most_rows: int
) -> None:
    monkeypatch.setattr(pairs_module, "MOST_ROWS", most_rows)
    token_ids = np.random.default_rng(0).integers(0, 307, size=13).tolist()
    pieces = list(depth_logits(tiny_stages, token_ids))
    found = {depth: np.concatenate([piece[depth] for piece in pieces]) for depth in pieces[0]}
    assert sorted(found) == [1, 2, 3, 4]
    whole = tiny_stages.new_sequence()
    for place, token_id in enumerate(token_ids):
        whole.append([token_id])
        np.testing.assert_allclose(found[4][place], whole.extend(Draft.empty())[0], atol=1e-4)
    for depth, num_stages in exit_stages(tiny_stages).items():
        early = tiny_stages.new_sequence()
        early.append(token_ids)
        for place in range(len(token_ids)):
            np.testing.assert_allclose(
                found[depth][place], early.peek(token_ids[: place + 1], num_stages=num_stages), atol=1e-4
            )


def test_windows_hold_all_tokens_but_short_rests(tiny_stages: Model) -> None:
    token_ids = tiny_stages.tokenizer.encode(TEXT)
    windows = text_windows(tiny_stages, [TEXT, "ab"])
    assert {len(window) for window in windows[:-1]} == {256}, "the tiny model sees 256 tokens"
    assert [token_id for window in windows for token_id in window] == token_ids


def test_windows_end_before_positions_change(tiny_stages: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_stages, "manifest", replace(tiny_stages.manifest, long_rope_from=40))
    assert {len(window) for window in text_windows(tiny_stages, [TEXT])[:-1]} == {40}


def test_a_calibration_tells_how_often_each_exit_agrees(tiny_stages: Model) -> None:
    counts: list[int] = []
    found = calibrate(tiny_stages, [TEXT] * 3, on_progress=counts.append)
    manifest = tiny_stages.manifest
    assert (found.weights, found.recipe) == (manifest.files["weights.bin"].sha256, manifest.recipe)
    assert found.num_tokens == sum(counts) == sum(map(len, text_windows(tiny_stages, [TEXT] * 3)))
    assert [one.num_layers for one in found.exits] == [1, 2, 3]
    agree = [
        logits[3].argmax(axis=1) == logits[4].argmax(axis=1)
        for window in text_windows(tiny_stages, [TEXT])
        for logits in depth_logits(tiny_stages, window)
    ]
    assert found.exits[2].agreement == pytest.approx(np.concatenate(agree).mean(), abs=1e-9)


def test_a_short_text_is_refused_with_how_many_tokens_are_wanted(tiny_stages: Model) -> None:
    count = len(tiny_stages.tokenizer.encode(TEXT[:300]))
    with pytest.raises(ConfigError, match=f"the text has {count} tokens; a calibration wants at least 2000"):
        calibrate(tiny_stages, [TEXT[:300]])


def test_a_bundle_without_exits_is_refused_with_the_command_that_makes_one(tiny: Model) -> None:
    with pytest.raises(ConfigError, match=r"no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`"):
        calibrate(tiny, [TEXT])

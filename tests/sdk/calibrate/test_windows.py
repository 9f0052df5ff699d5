"""Windows of tokens: how many, which, and when a text does not fit the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeCheckpoint

from skipstone.calibrate import Documents, Windows
from skipstone.errors import ConfigError
from skipstone.exporters import ExportOptions, ExportPlan, plan_export
from skipstone.quant import Recipe

CHAT = ({"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "Nobody."})
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def planned(checkpoint: Path) -> ExportPlan:
    return plan_export(checkpoint, ExportOptions(recipe=Recipe.named("int4")))


@pytest.fixture(scope="module")
def plan(make_checkpoint: MakeCheckpoint) -> ExportPlan:
    return planned(make_checkpoint(max_position_embeddings=16))


def text(num_bytes: int) -> Documents:
    digits = np.random.default_rng(0).integers(48, 58, num_bytes, np.uint8)
    return Documents("text", (digits.tobytes().decode(),))


def test_a_long_text_gives_windows_from_all_of_it_and_holds_some_back(plan: ExportPlan) -> None:
    windows = Windows.of(plan, text(20_000))
    assert windows.calibrate.shape == (48, 16) and windows.held_back.shape == (2, 16)
    every = {tuple(window) for window in (*windows.calibrate.tolist(), *windows.held_back.tolist())}
    assert len(every) == 50


def test_equal_seeds_choose_equal_windows_and_others_do_not(plan: ExportPlan) -> None:
    first, again, other = (Windows.of(plan, text(20_000), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.calibrate, again.calibrate) and np.array_equal(first.held_back, again.held_back)
    assert not np.array_equal(first.calibrate, other.calibrate)


def test_a_short_text_gives_what_it_has(plan: ExportPlan) -> None:
    windows = Windows.of(plan, text(16 * 8 + 5))
    assert len(windows.calibrate) == 6 and len(windows.held_back) == 2


def test_too_short_a_text_is_refused(plan: ExportPlan) -> None:
    with pytest.raises(ConfigError, match="has 127 tokens, and a calibration wants at least 128, better 800"):
        Windows.of(plan, text(127))


def test_chats_go_by_the_template_and_are_refused_without_one(plan: ExportPlan, tmp_path: Path) -> None:
    chats = Documents("chats", (CHAT,) * 100)
    with pytest.raises(ConfigError, match="chats holds chats, and this checkpoint has no chat template"):
        Windows.of(plan, chats)
    checkpoint = Path(shutil.copytree(plan.checkpoint.path, tmp_path / "checkpoint"))
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    with_template = planned(checkpoint)
    shown = "<user>Who is there?<assistant>Nobody."
    assert np.array_equal(
        Windows.of(with_template, chats).calibrate,
        Windows.of(with_template, Documents("text", (shown,) * 100)).calibrate,
    )


def test_a_chat_that_the_template_refuses_is_refused_but_for_the_package(plan: ExportPlan, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(plan.checkpoint.path, tmp_path / "checkpoint"))
    (checkpoint / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(ConfigError, match=r"chats: a chat cannot be shown: .*no system role"):
        Windows.of(planned(checkpoint), Documents("chats", (CHAT,) * 100))
    assert len(Windows.of(planned(checkpoint), Documents.read("auto")).calibrate) == 48

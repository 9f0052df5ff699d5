"""Numbers in config.json that no checkpoint has: refused at once, before anything is computed from them."""

from __future__ import annotations

import json
import math
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeCheckpoint
from family_cases_gemma import GEMMA3NS as CASES

from skipstone.errors import CheckpointError, SkipstoneError
from skipstone.exporters import ExportOptions, plan_export

LARGE = (10**5, 10**9, 10**12, 2**63, 10**400)
SIZES = (
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def changed(checkpoint: Path, place: Path, **settings: Any) -> Path:
    folder = Path(shutil.copytree(checkpoint, place / "checkpoint"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("value", LARGE, ids=[f"{value:.0e}" if value < 1e300 else "huge" for value in LARGE])
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_no_tensor_has_room_for_is_refused_at_once(
    tiny_checkpoint: Path, tmp_path: Path, key: str, value: int
) -> None:
    folder, start = changed(tiny_checkpoint, tmp_path, **{key: value}), time.thread_time()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=rf"^config\.json: {key} .* does not fit the weights, whose \d+ tensors"):
        plan_export(folder, ExportOptions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6 and time.thread_time() - start < 2


@pytest.mark.parametrize("key", ["altup_num_inputs", "num_hidden_layers", "laurel_rank", "hidden_size_per_layer_input"])
def test_numbers_of_streams_and_their_sizes_are_refused_too(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, key: str
) -> None:
    folder = changed(make_checkpoint("gemma3n_text", **CASES["gemma3n_text"].config), tmp_path, **{key: 10**9})
    with pytest.raises(CheckpointError, match=rf"^config\.json: {key} 1000000000 does not fit the weights"):
        plan_export(folder, ExportOptions())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("settings", [{"rms_norm_eps": 0}, {"rope_parameters": {"rope_theta": 0}}])
def test_what_is_no_finite_number_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, Any], value: float
) -> None:
    filled = {key: dict.fromkeys(inner, value) if isinstance(inner, dict) else value for key, inner in settings.items()}
    with pytest.raises(CheckpointError, match=r"^config\.json: (rms_norm_eps|rope_theta) must be a finite number"):
        plan_export(changed(tiny_checkpoint, tmp_path, **filled), ExportOptions())


def test_a_norm_that_takes_a_root_of_less_than_nothing_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rms_norm_eps must not be negative, found -1"):
        plan_export(changed(tiny_checkpoint, tmp_path, rms_norm_eps=-1.0), ExportOptions())


@pytest.mark.parametrize("value", ["x" * 10**6, [1] * 10**5, "a\nb\r\nc\u2028d"])
@pytest.mark.parametrize("key", [*SIZES, "model_type", "hidden_act", "rope_parameters", "max_position_embeddings"])
def test_whatever_a_setting_says_the_refusal_is_one_line_of_a_thousand_characters(
    tiny_checkpoint: Path, tmp_path: Path, key: str, value: Any
) -> None:
    try:
        plan_export(changed(tiny_checkpoint, tmp_path, **{key: value}), ExportOptions())
    except SkipstoneError as error:
        assert len(str(error)) <= 1000 and len(str(error).splitlines()) == 1


def test_of_a_long_message_the_middle_is_left_out() -> None:
    message = str(SkipstoneError("first " + "x" * 10**6 + " last"))
    assert message.startswith("first xxx") and message.endswith("xxx last")
    assert " ... 999111 characters ... " in message and len(message) <= 1000
    assert str(SkipstoneError("of two\n  lines")) == "of two lines"

"""Scales of an int8 cache: what a text shows of them, and that they stay right at positions that it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st

from skipstone.api import export, load, plan
from skipstone.calibrate.cache_scales import reach_of_keys
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model


def turned(keys: np.ndarray, angles: np.ndarray, num_turning: int) -> np.ndarray:
    """Return keys [K, T, D] with their first pairs (i, i + D / 2) turned by angles [T, pairs]."""
    result, half = keys.copy(), keys.shape[-1] // 2
    first, second = keys[..., :num_turning], keys[..., half : half + num_turning]
    result[..., :num_turning] = first * np.cos(angles) - second * np.sin(angles)
    result[..., half : half + num_turning] = first * np.sin(angles) + second * np.cos(angles)
    return result


@given(st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_no_position_turns_a_key_beyond_its_reach(num_turning: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    keys = random.standard_normal((2, 7, 16)).astype(np.float32)
    reach = reach_of_keys(keys, num_turning)[:, None] * (1 + 1e-5)
    assert (np.abs(keys) <= reach).all()
    later = turned(keys, random.uniform(0, 1e4, (7, num_turning)), num_turning)
    assert (np.abs(later) <= reach).all()
    rest = np.abs(keys[..., num_turning:8]).max(axis=1)
    assert np.array_equal(reach_of_keys(keys, num_turning)[:, num_turning:8], rest), "what does not turn keeps its own"


def test_without_the_pair_rule_later_positions_would_be_cut_off() -> None:
    keys = np.zeros((1, 1, 16), np.float32)
    keys[0, 0, 0] = 1
    assert turned(keys, np.full((1, 8), np.pi / 2), 8)[0, 0, 8] == pytest.approx(1)
    assert np.abs(keys).max(axis=1)[0, 8] == 0
    assert reach_of_keys(keys, 8)[0, 8] == 1


def test_channels_that_stay_zero_have_a_scale_all_the_same(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    seen: list[Any] = []
    planned = plan(make_checkpoint(head_dim=20), precision="fp32")

    from skipstone.calibrate import CacheScalesOfText, Documents

    def meter(given_plan: Any, folder: Path) -> Any:
        seen.append(CacheScalesOfText(Documents.read("auto"))(given_plan, folder))
        return seen[-1]

    planned.with_int8_cache(meter).write(tmp_path / "bundle")  # type: ignore[union-attr]
    (scales,) = seen
    assert sorted(scales) == [0, 1, 2, 3]
    for keys, values in scales.values():
        assert keys.shape == values.shape == (2, 32), "20 channels in heads of 32"
        assert np.isfinite(keys).all() and (keys > 0).all() and (values > 0).all()
        assert (keys == 1).sum() == (values == 1).sum() == 2 * 12
        assert np.array_equal(keys[:, :10], keys[:, 16:26]), "both channels of a pair have one scale"


def test_an_export_with_an_int8_cache_has_both_types_and_takes_int8(
    make_bundle: MakeBundle, tiny_checkpoint: Path
) -> None:
    bundle = Bundle.open(make_bundle(tiny_checkpoint, exits="auto", cache="int8"))
    manifest, plain = bundle.manifest, Bundle.open(make_bundle(tiny_checkpoint, exits="auto")).manifest
    assert (manifest.cache_types, manifest.cache_type) == (("float32", "int8"), "int8")
    assert manifest.cache == plain.cache
    assert {*manifest.variants["cache-int8"]} == {stage.file for stage in manifest.stages}
    assert {name: manifest.files[name] for name in plain.files if name.endswith(".onnx")} == {
        name: entry for name, entry in plain.files.items() if name.endswith(".onnx")
    }
    added = 4 * 4 * 2 * 2 * 16  # float32 of four layers, keys and values, two heads of 16
    assert 0 < manifest.files["weights.bin"].size - plain.files["weights.bin"].size < added + 8 * 64
    bytes_each = [sum(layer.bytes_per_token for layer in manifest.layout(kind)) for kind in manifest.cache_types]
    assert bytes_each[0] == 4 * bytes_each[1]


def test_a_loaded_model_has_the_type_that_is_asked_for(make_bundle: MakeBundle, tiny_checkpoint: Path) -> None:
    bundle = make_bundle(tiny_checkpoint, exits="auto", cache="int8")
    types = {cache: load(bundle, cache=cache).runtime.sessions.cache_type for cache in (None, "fp32", "int8")}
    assert types == {None: "int8", "fp32": "float32", "int8": "int8"}


def test_the_fp32_cache_of_such_a_bundle_writes_the_text_of_one_without(
    make_bundle: MakeBundle, tiny_checkpoint: Path
) -> None:
    bundle = make_bundle(tiny_checkpoint, cache="int8")
    text = load(bundle, cache="fp32").generate("def add(", max_new_tokens=12).text
    assert text == load(make_bundle(tiny_checkpoint)).generate("def add(", max_new_tokens=12).text


def test_a_draft_model_in_the_bundle_gets_the_same_type(
    make_checkpoint: MakeCheckpoint, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    small = make_checkpoint(num_hidden_layers=1)
    export(tiny_checkpoint, tmp_path / "pair", precision="fp32", draft_model=small, cache="int8")
    for cache, wanted in ((None, "int8"), ("fp32", "float32")):
        model = Model.open(tmp_path / "pair", cache=cache)
        assert model.draft_model is not None
        assert model.draft_model.sessions.cache_type == wanted


def test_a_target_without_such_an_operator_refuses_in_one_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--target plain has no operator that reads an int8 cache; leave one"):
        export(tiny_checkpoint, tmp_path / "plain", target="plain", cache="int8")
    assert not (tmp_path / "plain").exists()

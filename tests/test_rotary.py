"""Rotary tables: the frequencies of transformers, in both spellings of config.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.rotary import Rotary, read_rotary

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def transformers_frequencies(size: int, parameters: dict[str, Any]) -> NDArray[np.float32]:
    """What the rotary module of transformers turns each pair by."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=4 * size,
        num_attention_heads=4,
        head_dim=size,
        max_position_embeddings=131072,
        rope_parameters=parameters,
    )
    frequencies: NDArray[np.float32] = LlamaRotaryEmbedding(config).inv_freq.numpy()
    return frequencies


@pytest.mark.parametrize("size", [2, 20, 64, 128])
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "default", "rope_theta": 1000000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        {"rope_theta": 500000.0, **LLAMA3},
        {"rope_theta": 500000.0, **LLAMA3, "factor": 32.0, "low_freq_factor": 2.0},
    ],
)
def test_frequencies_are_those_of_transformers(size: int, parameters: dict[str, Any]) -> None:
    found = read_rotary({"rope_parameters": parameters}).frequencies(size)
    np.testing.assert_allclose(found, transformers_frequencies(size, parameters), rtol=1e-6)


def test_llama3_keeps_fast_waves_stretches_slow_ones_and_blends_those_between() -> None:
    plain = Rotary(base=500000.0).frequencies(128)
    found = read_rotary({"rope_theta": 500000.0, "rope_scaling": LLAMA3}).frequencies(128)
    wavelengths = 2 * np.pi / plain
    fast, slow = wavelengths < 8192 / 4, wavelengths > 8192 / 1
    np.testing.assert_array_equal(found[fast], plain[fast])
    np.testing.assert_allclose(found[slow], plain[slow] / 8)
    between = found[~fast & ~slow] / plain[~fast & ~slow]
    assert len(between) and np.all((between > 1 / 8) & (between < 1)) and np.all(np.diff(between) < 0)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
        {"rope_theta": 500.0, "rope_scaling": None, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_every_spelling_of_config_json_means_the_same(config: dict[str, Any]) -> None:
    assert read_rotary(config) == Rotary(base=500.0, scaling="linear", parameters={"factor": 4.0})


def test_without_a_word_in_config_json_theta_is_10000_and_nothing_is_scaled() -> None:
    assert read_rotary({}) == Rotary(base=10000.0)
    assert read_rotary({"rope_scaling": None}) == Rotary(base=10000.0)


def test_tables_hold_the_angles_of_every_position() -> None:
    cosines, sines = Rotary(base=10000.0).tables(4, 3, padded_size=4)
    for position in range(3):
        for pair in range(2):
            angle = position * 10000.0 ** (-2 * pair / 4)
            assert cosines[position, pair] == pytest.approx(np.cos(angle), abs=1e-7)
            assert sines[position, pair] == pytest.approx(np.sin(angle), abs=1e-7)


def test_tables_do_not_turn_the_padding() -> None:
    plain, padded = (Rotary(base=10000.0).tables(20, 9, padded_size=size) for size in (20, 32))
    for before, after, still in zip(plain, padded, (1.0, 0.0), strict=True):
        assert after.shape == (9, 16) and after.dtype == np.float32
        np.testing.assert_array_equal(after[:, :10], before)
        assert np.all(after[:, 10:] == still)


def test_far_positions_keep_their_angle() -> None:
    cosines, _ = Rotary(base=10000.0).tables(2, 131072, padded_size=2)
    assert cosines[131071, 0] == pytest.approx(np.cos(131071.0), abs=1e-6)  # float32 angles would be off by 0.004


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "original_max_position_embeddings"])
def test_a_missing_parameter_is_refused_by_name_at_once(missing: str) -> None:
    with pytest.raises(CheckpointError, match=f"'llama3' needs {missing} in config.json"):
        read_rotary({"rope_scaling": {key: value for key, value in LLAMA3.items() if key != missing}})


@pytest.mark.parametrize("scaling", ["yarn", "longrope", "dynamic", "mrope"])
def test_an_unknown_rope_type_is_refused_with_the_known_ones(scaling: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"'{scaling}' is not known; known are default, linear, llama3"):
        read_rotary({"rope_scaling": {"type": scaling, "factor": 2.0}})

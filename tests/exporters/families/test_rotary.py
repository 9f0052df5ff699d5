"""Rotary positions: the frequencies of transformers, in both spellings of config.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.families.rotary import Rotary, read_rotary
from skipstone.runtime.engine import rotary_rows

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 4096}


def transformers_rotary(size: int, parameters: dict[str, Any], **config: Any) -> Any:
    """The rotary module of transformers."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    settings = LlamaConfig(
        hidden_size=4 * size,
        num_attention_heads=4,
        head_dim=size,
        max_position_embeddings=131072,
        rope_parameters=dict(parameters),
        **config,
    )
    return LlamaRotaryEmbedding(settings)


def read(parameters: dict[str, Any], size: int = 64, **config: Any) -> Rotary:
    return read_rotary({"max_position_embeddings": 131072, "rope_parameters": parameters, **config}, size)


@pytest.mark.parametrize("size", [4, 20, 64, 128])
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "default", "rope_theta": 1000000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0, "partial_rotary_factor": 0.5},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.5},
        {"rope_theta": 500000.0, **LLAMA3},
        {"rope_theta": 500000.0, **LLAMA3, "factor": 32.0, "low_freq_factor": 2.0},
        YARN,
        {**YARN, "factor": None},
        {**YARN, "factor": 0.5},
        {**YARN, "attention_factor": 1.5},
        {**YARN, "mscale": 0.7},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4},
        {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
        {**YARN, "original_max_position_embeddings": 64},
    ],
)
def test_frequencies_and_magnitude_are_those_of_transformers(size: int, parameters: dict[str, Any]) -> None:
    wanted, found = transformers_rotary(size, parameters), read(parameters, size)
    np.testing.assert_allclose(found.frequencies(), wanted.inv_freq.numpy(), rtol=2e-6)
    assert found.magnitude == pytest.approx(wanted.attention_scaling)


@pytest.mark.parametrize("extra", [{}, {"factor": 3.0}, {"attention_factor": 1.25}, {"factor": 0.5}])
def test_longrope_has_a_short_and_a_long_form_with_the_magnitude_of_transformers(extra: dict[str, Any]) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    short, long = [1.0 + 0.1 * pair for pair in range(8)], [2.0 + pair for pair in range(8)]
    parameters = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": short, "long_factor": long, **extra}
    parameters["original_max_position_embeddings"] = 4096
    module, found = transformers_rotary(16, parameters), read(parameters, 16)
    assert found.long is not None and found.switch_after == 4096
    for form, length in ((found, 4096), (found.long, 4097)):
        frequencies, magnitude = ROPE_INIT_FUNCTIONS["longrope"](module.config, seq_len=length)
        np.testing.assert_allclose(form.frequencies(), frequencies.numpy(), rtol=1e-6)
        assert form.magnitude == pytest.approx(magnitude)


def test_the_manifest_says_both_forms_to_the_last_bit() -> None:
    parameters = {"rope_type": "longrope", "short_factor": [1.1] * 8, "long_factor": [4.3] * 8}
    found = read({**parameters, "original_max_position_embeddings": 16}, 16)
    entry = found.entry()
    assert found.long is not None
    assert (entry.magnitude, entry.frequencies) == (found.magnitude, tuple(found.frequencies()))
    assert entry.long_frequencies == tuple(found.long.frequencies()) != entry.frequencies
    assert read({}, 16).entry().long_frequencies is None


def test_factors_divide_the_frequency_of_each_pair() -> None:
    found = read({"rope_type": "factors", "factors": [1.0, 2.0]}, 4).frequencies()
    np.testing.assert_allclose(found, read({}, 4).frequencies() / [1, 2])
    with pytest.raises(CheckpointError, match="4 are wanted, one per pair, found 2"):
        read({"rope_type": "factors", "factors": [1.0, 2.0]}, 8)


def test_llama3_keeps_fast_waves_stretches_slow_ones_and_blends_those_between() -> None:
    plain = Rotary(base=500000.0, size=128).frequencies()
    found = read_rotary({"rope_theta": 500000.0, "rope_scaling": LLAMA3}, 128).frequencies()
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
    assert read_rotary(config, 16) == Rotary(base=500.0, size=16, scaling="linear", parameters={"factor": 4.0})


def test_without_a_word_in_config_json_theta_is_10000_and_nothing_is_scaled() -> None:
    assert read_rotary({}, 16) == Rotary(base=10000.0, size=16)
    assert read_rotary({"rope_scaling": None}, 16) == Rotary(base=10000.0, size=16)


def test_what_stands_outside_of_the_rope_parameters_counts_too() -> None:
    assert read({}, partial_rotary_factor=0.25).size == 16
    assert read({"partial_rotary_factor": 0.5}, partial_rotary_factor=0.25).size == 32
    inner = {**LLAMA3, "original_max_position_embeddings": 1}
    assert read(inner, original_max_position_embeddings=8192) == read(LLAMA3)


def test_layers_of_one_type_may_have_parameters_of_their_own() -> None:
    parameters = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    bases = [read_rotary({"rope_parameters": parameters}, 16, kind).base for kind in parameters]
    assert bases == [1e6, 1e4]
    with pytest.raises(CheckpointError, match="for full_attention, not for sliding_attention"):
        read_rotary({"rope_parameters": {"full_attention": {}}}, 16, "sliding_attention")


@pytest.mark.parametrize("size", [15, 1])
def test_only_pairs_of_channels_can_turn(size: int) -> None:
    with pytest.raises(CheckpointError, match=f"rotary turns pairs of channels, found {size}"):
        read({}, size)


def test_tables_hold_the_angles_of_every_position() -> None:
    cosines, sines = rotary_rows(Rotary(base=10000.0, size=4).entry(), range(3), width=2)
    for position in range(3):
        for pair in range(2):
            angle = position * 10000.0 ** (-2 * pair / 4)
            assert cosines[position, pair] == pytest.approx(np.cos(angle), abs=1e-7)
            assert sines[position, pair] == pytest.approx(np.sin(angle), abs=1e-7)


def test_tables_do_not_turn_the_padding() -> None:
    plain, padded = (rotary_rows(Rotary(base=10000.0, size=20).entry(), range(9), width=width) for width in (10, 16))
    for before, after, still in zip(plain, padded, (1.0, 0.0), strict=True):
        assert after.shape == (9, 16) and after.dtype == np.float32
        np.testing.assert_array_equal(after[:, :10], before)
        assert np.all(after[:, 10:] == still)


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
def test_far_positions_have_the_angles_of_transformers(theta: float) -> None:
    import torch

    parameters = {"rope_type": "default", "rope_theta": theta}
    positions = torch.tensor([[0, 1, 4095, 30000, 131071]])
    wanted, _ = transformers_rotary(64, parameters)(torch.zeros(1), positions)
    found, _ = rotary_rows(read(parameters).entry(), range(131072), width=32)
    # Of 32 pairs one or two may have a frequency that torch rounds to the neighbour.
    differences = np.abs(found[positions[0].numpy()] - wanted[0, :, :32].numpy()).max(axis=0)
    assert (differences < 1e-6).sum() >= 30 and differences.max() < 0.02


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "original_max_position_embeddings"])
def test_a_missing_parameter_is_refused_by_name_at_once(missing: str) -> None:
    with pytest.raises(CheckpointError, match=f"'llama3' needs {missing} in config.json"):
        read_rotary({"rope_scaling": {key: value for key, value in LLAMA3.items() if key != missing}}, 16)


@pytest.mark.parametrize(
    "parameters",
    [{"rope_theta": -5.0}, {"rope_type": "linear", "factor": 0.0}, {**YARN, "attention_factor": float("inf")}],
)
def test_angles_that_are_no_numbers_are_refused_at_once(parameters: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="angles of rope are no finite numbers"):
        read(parameters)


@pytest.mark.parametrize("scaling", ["mrope", "proportional"])
def test_an_unknown_rope_type_is_refused_with_the_known_ones(scaling: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"'{scaling}' is not known; known are default, dynamic, factors"):
        read_rotary({"rope_scaling": {"type": scaling, "factor": 2.0}}, 16)

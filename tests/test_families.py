"""Every family gives the logits of transformers, however its tokens are fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.families import FAMILIES, read_architecture
from skipstone.runtime.draft import Draft
from skipstone.runtime.model import Model

Logits = NDArray[np.float32]
# Longer than every window below by more than one call.
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=30).tolist())
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """A checkpoint to export. `without` are changes to its config.json that must change the logits visibly."""

    model_type: str
    config: dict[str, object] = field(default_factory=dict)
    without: dict[str, object] = field(default_factory=dict)
    dtype: str = "float32"


def rope(**parameters: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


LLAMA3 = rope(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
CASES = {
    "llama": Case("llama"),
    "llama, tied": Case("llama", {"tie_word_embeddings": True}),
    "llama, llama3 rope": Case("llama", LLAMA3, without=rope(rope_theta=500.0)),
    "llama, linear rope": Case("llama", rope(rope_type="linear", factor=4.0), without=rope()),
    "llama, another theta": Case("llama", rope(rope_theta=123.0), without=rope()),
    "llama, attention bias": Case("llama", {"attention_bias": True}),
    "llama, mlp bias": Case("llama", {"mlp_bias": True, "tie_word_embeddings": True}),
    "llama, all biases": Case("llama", {"mlp_bias": True, "attention_bias": True}),
    "llama, another epsilon": Case("llama", {"rms_norm_eps": 0.05}, without={"rms_norm_eps": 1e-6}),
    "llama, one key-value head": Case("llama", {"num_key_value_heads": 1}),
    "llama, as many key-value heads": Case("llama", {"num_key_value_heads": 4}),
    "llama, one head": Case("llama", {"num_attention_heads": 1, "num_key_value_heads": 1}),
    "llama, head size not stated": Case("llama", {"head_dim": None, "num_attention_heads": 2}),
    "llama, heads of 8": Case("llama", {"head_dim": 8}),
    "llama, heads of 20": Case("llama", {"head_dim": 20, "attention_bias": True}),
    "llama, heads of 24": Case("llama", {"head_dim": 24}),
    "llama, heads of 40": Case("llama", {"head_dim": 40}),
    "llama, heads of 80": Case("llama", {"head_dim": 80}),
    "llama, heads of 20, llama3 rope": Case("llama", {"head_dim": 20} | LLAMA3, without=rope(rope_theta=500.0)),
    "llama, one layer": Case("llama", {"num_hidden_layers": 1}),
    "llama, two layers": Case("llama", {"num_hidden_layers": 2}),
    "mistral": Case("mistral", {"sliding_window": None}, without={"sliding_window": 20}),
    "mistral, window of 5": Case("mistral", {"sliding_window": 5}, without={"sliding_window": 6}),
    "mistral, window of 4": Case("mistral", {"sliding_window": 4}, without={"sliding_window": 5}),
    "mistral, window of 1": Case("mistral", {"sliding_window": 1}, without={"sliding_window": 2}),
    "mistral, wide window": Case("mistral", {"sliding_window": 200}),
    "qwen2": Case("qwen2"),
    "qwen2, bfloat16": Case("qwen2", dtype="bfloat16"),
    "qwen2, tied": Case("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window from layer 2": Case(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
        without={"max_window_layers": 1, "layer_types": None},
    ),
    "qwen2, window switched off": Case("qwen2", {"use_sliding_window": False, "sliding_window": 5}),
    "qwen3": Case("qwen3"),
    "qwen3, tied, bias": Case("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, heads of 20": Case("qwen3", {"head_dim": 20, "rms_norm_eps": 0.05}, without={"rms_norm_eps": 1e-6}),
    "qwen3, mixed layers": Case(
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
        without={"sliding_window": 6},
    ),
}


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="session")
def checkpoint(case: Case, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(case.model_type, dtype=case.dtype, **case.config)


@pytest.fixture(scope="session")
def wanted(checkpoint: Path, reference_logits: Callable[[Path, tuple[int, ...]], Logits]) -> Logits:
    """The logits after each of TOKEN_IDS."""
    return reference_logits(checkpoint, TOKEN_IDS)


@pytest.fixture(scope="session", params=["none", "auto"])
def model(request: pytest.FixtureRequest, checkpoint: Path, make_bundle: MakeBundle) -> Model:
    return Model.open(make_bundle(checkpoint, exits=request.param))


def assert_close(found: Logits, wanted: Logits) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_a_prompt_gives_the_logits_of_transformers_after_each_token(model: Model, wanted: Logits) -> None:
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:1])
    assert_close(sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test")), wanted)


def test_a_prompt_in_two_pieces_gives_the_logits_of_transformers(model: Model, wanted: Logits) -> None:
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:11])
    assert_close(sequence.extend(Draft.empty()), wanted[10:11])
    sequence.append(TOKEN_IDS[11:])
    assert_close(sequence.extend(Draft.empty()), wanted[-1:])


@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_rows_behind_a_cache_give_the_logits_of_transformers(model: Model, wanted: Logits, num_rows: int) -> None:
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:3])
    sequence.extend(Draft.empty())
    for start in range(3, len(TOKEN_IDS), num_rows):
        rows = TOKEN_IDS[start : start + num_rows]
        sequence.append(rows[:1])
        assert_close(sequence.extend(Draft.chain(rows[1:], source="test")), wanted[start : start + len(rows)])
        if len(rows) > 1:
            sequence.commit(rows[1:])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.without])
def test_each_option_of_a_case_shows_in_its_logits(
    name: str, make_checkpoint: MakeCheckpoint, reference_logits: Callable[[Path, tuple[int, ...]], Logits]
) -> None:
    case = CASES[name]
    wanted = reference_logits(make_checkpoint(case.model_type, **case.config), TOKEN_IDS)
    without = reference_logits(make_checkpoint(case.model_type, **case.config | case.without), TOKEN_IDS)
    assert np.abs(wanted - without).max() > 100 * TOLERANCE


# Settings, without weights

CONFIG: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def test_what_config_json_does_not_say_is_what_transformers_takes() -> None:
    architecture = read_architecture(CONFIG)
    assert architecture.dimensions.num_kv_heads == 4
    assert architecture.dimensions.head_size == 16
    assert architecture.norm_epsilon == 1e-6
    assert architecture.rotary.base == 10000.0
    assert architecture.windows == (None, None, None)
    assert not architecture.tied_embedding


def test_without_a_first_windowed_layer_the_first_28_see_everything() -> None:
    config = CONFIG | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "num_hidden_layers": 30}
    assert read_architecture(config).windows == (None,) * 28 + (9, 9)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModel, match=f"'gpt2'.*{', '.join(sorted(FAMILIES))}"):
        read_architecture(CONFIG | {"model_type": "gpt2"})
    with pytest.raises(UnsupportedModel, match="None"):
        read_architecture({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'.*only silu, swish"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.*gptq"),
        ({"pretraining_tp": 2}, "pretraining_tp = 2"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'.*default, linear, llama3"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["chunked"] * 3},
            "chunked",
        ),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention"]},
            "for 3 layers",
        ),
    ],
)
def test_an_option_that_changes_the_mathematics_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_architecture(CONFIG | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size must be a positive whole number, found None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers.*found 0"),
        ({"vocab_size": "many"}, "vocab_size.*found 'many'"),
        ({"num_attention_heads": True}, "num_attention_heads.*found True"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key-value heads"),
        ({"head_dim": 15}, "head_dim.*even.*15"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window.*found 0"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope type 'linear' needs factor"),
    ],
)
def test_a_missing_or_odd_number_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(CONFIG | change)

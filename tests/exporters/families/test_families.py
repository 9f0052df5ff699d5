"""Every family gives the logits of transformers, however its tokens are fed. The cases are in family_cases.py."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from family_case import Case, Spelling
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.check import Parity, compare
from skipstone.errors import CheckpointError, SkipstoneError, UnsupportedModel
from skipstone.exporters.families import FAMILIES, read_architecture
from skipstone.quant import Recipe
from skipstone.runtime.engine import Model

Logits = NDArray[np.float32]
TokenIds = tuple[int, ...]
# Longer than the windows of the cases by more than one call.
TOKEN_IDS: TokenIds = tuple(np.random.default_rng(0).integers(3, 300, size=30).tolist())
TOLERANCE = 1e-4
FIRST_OF_FAMILY = {case.model_type: name for name, case in reversed(CASES.items())}


@dataclass(frozen=True)
class Subject:
    """A case in one export, beside what transformers computes from the same checkpoint."""

    case: Case
    model: Model
    reference: Callable[[SequenceOf[int]], Logits]


@pytest.fixture(scope="session")
def make_case(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a case's checkpoint."""

    @functools.cache
    def make(name: str) -> Path:
        case = CASES[name]
        plain = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
        return respell(plain, tmp_path_factory.mktemp("spelled"), case.spelling) if case.spelling else plain

    return make


def respell(source: Path, target: Path, spelling: Spelling) -> Path:
    """Write the same checkpoint as somebody else would have."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copy(source / "tokenizer.json", target)
    config = json.loads((source / "config.json").read_text()) | spelling.config
    config = {key: value for key, value in config.items() if key not in spelling.config or value is not None}
    if spelling.wrapper is not None:
        config = spelling.wrapper | {"text_config": config}
    (target / "config.json").write_text(json.dumps(config))
    tensors = {_renamed(name, spelling): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    foreign = {name: torch.ones(16) for name in spelling.foreign}
    save_file(tensors | foreign, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _renamed(name: str, spelling: Spelling) -> str:
    old = next((old for old in spelling.names if name.startswith(old)), "")
    return spelling.names.get(old, "") + name.removeprefix(old)


EXPORTS = [(name, exits) for name, case in CASES.items() for exits in case.exits]


@pytest.fixture(scope="session", params=EXPORTS, ids=[f"{name}, exits {exits}" for name, exits in EXPORTS])
def subject(
    request: pytest.FixtureRequest,
    make_case: Callable[[str], Path],
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_logits: Callable[[Path, TokenIds], Logits],
) -> Subject:
    name, exits = request.param
    case = CASES[name]
    checkpoint = make_case(name)
    readable = checkpoint
    if case.spelling and not case.spelling.is_readable:
        readable = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    model = Model.open(make_bundle(checkpoint, exits=exits))
    return Subject(case, model, lambda token_ids: reference_logits(readable, tuple(token_ids)))


@pytest.fixture(scope="session")
def parity(subject: Subject) -> Parity:
    """What `export --check` finds: the contract of every family."""
    return compare(subject.model, subject.reference, TOKEN_IDS)


WAYS = ("prompt", "in pieces", "row by row", "2 rows at once", "7 rows at once", "greedy text")


@pytest.mark.parametrize("way", WAYS)
def test_the_logits_are_those_of_transformers_however_tokens_are_fed(parity: Parity, way: str) -> None:
    assert parity.ways[way].max_logit_error < TOLERANCE


def test_a_greedy_text_is_one_of_transformers(parity: Parity) -> None:
    """Where two tokens are nearly as likely, rounding may choose either: so the text is ours, the logits are theirs."""
    assert parity.num_greedy == 64 and parity.choice_gap <= 2 * TOLERANCE


def test_what_was_compared_is_all_that_there_is(subject: Subject, parity: Parity) -> None:
    """No way is left out, the text is longer than the windows, and positions change where the case says."""
    assert set(parity.ways) == set(WAYS)
    windows = [layer.window for layer in subject.model.manifest.cache if layer.window]
    assert parity.past_window in (None, min(windows, default=0) < len(TOKEN_IDS))
    assert subject.model.manifest.long_rope_from == subject.case.long_after


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("family", FIRST_OF_FAMILY)
def test_a_quantized_family_stays_near_its_logits(
    family: str,
    precision: str,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_logits: Callable[[Path, TokenIds], Logits],
) -> None:
    """The weights are smaller than elsewhere: with large ones a rounded router often takes another expert."""
    case = CASES[FIRST_OF_FAMILY[family]]
    checkpoint = make_checkpoint(case.model_type, **case.config | {"initializer_range": 0.1})
    model = Model.open(make_bundle(checkpoint, precision=precision))
    found = compare(model, lambda token_ids: reference_logits(checkpoint, tuple(token_ids)), TOKEN_IDS)
    assert found.holds(Recipe.named(precision).kl_bound)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "auto" not in case.exits])
def test_a_family_that_has_no_exits_refuses_them_by_name(
    name: str, make_case: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    with pytest.raises(SkipstoneError, match=r"gemma3n.*exit|exit.*gemma3n"):
        make_bundle(make_case(name), exits="auto")


def test_every_family_has_a_case() -> None:
    wrapped = {
        case.spelling.wrapper["model_type"] for case in CASES.values() if case.spelling and case.spelling.wrapper
    }
    assert set(FIRST_OF_FAMILY) | wrapped == set(FAMILIES)


# What the cases are worth: nothing of our own runs here


@pytest.mark.parametrize(
    ("name", "change"), [(name, index) for name, case in CASES.items() for index in range(len(case.without))]
)
def test_each_option_of_a_case_shows_in_its_logits(name: str, change: int) -> None:
    """The same weights under other settings: an export that overlooks the option would be found out."""
    import torch

    case = CASES[name]
    stated = random_model(case.model_type, "float32", TINY | case.config)
    without = random_model(case.model_type, "float32", TINY | case.config | case.without[change])
    without.load_state_dict(stated.state_dict(), strict=False)
    lengths = {len(TOKEN_IDS), case.long_after or len(TOKEN_IDS)}
    texts = [torch.tensor([TOKEN_IDS[:length]]) for length in lengths]
    with torch.no_grad():
        differences = [(stated(text).logits - without(text).logits).abs().max().item() for text in texts]
    assert max(differences) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.spelling and case.spelling.is_readable])
def test_another_spelling_is_the_same_model_to_transformers(
    name: str,
    make_case: Callable[[str], Path],
    make_checkpoint: MakeCheckpoint,
    reference_logits: Callable[[Path, TokenIds], Logits],
) -> None:
    case = CASES[name]
    plain = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    spelled = reference_logits(make_case(name), TOKEN_IDS)
    np.testing.assert_allclose(spelled, reference_logits(plain, TOKEN_IDS), rtol=0, atol=1e-6)


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
    assert [rotary and rotary.base for rotary in architecture.rotaries] == [10000.0] * 3
    assert architecture.windows == (None, None, None)
    assert not architecture.tied_embedding


def test_without_a_first_windowed_layer_the_first_28_see_everything() -> None:
    config = CONFIG | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "num_hidden_layers": 30}
    assert read_architecture(config).windows == (None,) * 28 + (9, 9)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModel, match=f"'bert'.*{', '.join(sorted(FAMILIES))}"):
        read_architecture(CONFIG | {"model_type": "bert"})
    with pytest.raises(UnsupportedModel, match="None"):
        read_architecture({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "laplace"}, "laplace.*only silu, swish"),
        ({"pretraining_tp": 2}, "pretraining_tp = 2"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}}, "rope type 'proportional'.*default.*yarn"),
        ({"model_type": "falcon", "alibi": True}, "falcon: alibi = True"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "gemma2: use_bidirectional_attention"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "gpt2: add_cross_attention"),
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
        ({"head_dim": 15}, "pairs of channels.*15"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window.*found 0"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope type 'linear' needs factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8}}, "needs long_factor"),
        ({"model_type": "gemma3"}, "text_config"),
    ],
)
def test_a_missing_or_odd_number_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(CONFIG | change)

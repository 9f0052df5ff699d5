"""GGUF files give the models of the checkpoints that they were made from; what is not known is refused by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from gguf_files import CASES, KINDS, Array, Settings, WriteGguf, write

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.gguf import open_gguf
from skipstone.exporters.checkpoints.gguf.configs import CONFIGS
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.layouts import LAYOUTS
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors
from skipstone.exporters.families import read_architecture
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=20).tolist())


def logits(bundle: Path) -> Array:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    found: Array = sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_of_a_file_give_the_logits_of_its_checkpoint(
    name: str, write_gguf: WriteGguf, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES[name]
    folder, file = make_checkpoint(case.model_type, **case.config), write_gguf(name)
    np.testing.assert_allclose(logits(make_bundle(file)), logits(make_bundle(folder)), rtol=0, atol=1e-5)


def test_transformers_reads_the_same_model_from_a_file(
    write_gguf: WriteGguf, reference_logits: Callable[[Path, tuple[int, ...]], Array], make_checkpoint: MakeCheckpoint
) -> None:
    import torch
    import transformers

    name = "llama, head size not stated"
    case, file = CASES[name], write_gguf(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        found = model.eval()(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    wanted = reference_logits(make_checkpoint(case.model_type, **case.config), TOKEN_IDS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "keeps"),
    [
        ("llama", "F32", False),
        ("llama, whole blocks, heads of 24", "Q8_0", True),
        ("falcon, two norms", "F32", False),
        ("gpt2", "Q8_0", True),
    ],
)
def test_the_export_of_a_file_can_be_checked_with_transformers(
    name: str, kind: str, keeps: bool, write_gguf: WriteGguf, make_bundle: MakeBundle
) -> None:
    manifest = Bundle.open(make_bundle(write_gguf(name, kind=kind), check=True)).manifest
    assert manifest.check is not None
    assert ("kept_integers" in manifest.recipe) == keeps


def test_each_architecture_has_settings_and_a_layout() -> None:
    assert CONFIGS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_the_names_of_an_architecture_are_those_that_its_converter_knows(architecture: str) -> None:
    kinds = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(kinds[architecture], 1)
    tables = [LAYOUTS[architecture].names, *LAYOUTS[architecture].beside.values()]
    for theirs, ours in (pair for table in tables for pair in table.items()):
        if (architecture, theirs) == ("gemma2", "output"):
            continue  # llama.cpp leaves the tied matrix out
        plain = ours.format(layer=0, part="").replace("..", ".").removesuffix(".norms.")
        assert known.get_name(plain) == theirs.replace("blk.", "blk.0."), ours


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.02), ("Q8_0", 0.6)])
def test_a_file_of_blocks_exports_and_stays_near_its_checkpoint(
    kind: str, tolerance: float, write_gguf: WriteGguf, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    name = "llama, whole blocks"
    case, found = CASES[name], logits(make_bundle(write_gguf(name, kind=kind)))
    wanted = logits(make_bundle(make_checkpoint(case.model_type, **case.config)))
    assert 0 < np.abs(found - wanted).max() < tolerance


# Settings


def described(tmp_path: Path, architecture: str, **settings: object) -> Settings:
    """The config of a file that holds an embedding and a gain for each layer; dots in keys are written as __."""
    stated: Settings = {
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "block_count": 4,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 0.5,
        "attention.key_length": 32,
    }
    stated |= {key.replace("__", "."): value for key, value in settings.items()}
    keys = {f"{architecture}.{key}": value for key, value in stated.items() if value is not None}
    num_layers = keys.get(f"{architecture}.block_count", 4)
    gains = {f"blk.{layer}.attn_norm.weight": (np.zeros(64, np.float32), KINDS["F32"]) for layer in range(num_layers)}
    embedding = {"token_embd.weight": (np.zeros((3, 64), np.float32), KINDS["F32"])}
    return open_gguf(write(tmp_path / "model.gguf", architecture, keys | TINY_TOKENIZER, embedding | gains)).config


TINY_TOKENIZER: Settings = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "a"],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0],
    "tokenizer.ggml.token_type": [2, 3, 1],
}


@pytest.mark.parametrize(
    ("architecture", "settings", "wanted"),
    [
        ("llama", {"attention__sliding_window": 7}, {"model_type": "mistral", "sliding_window": 7}),
        ("llama", {}, {"tie_word_embeddings": True, "vocab_size": 3, "head_dim": 32}),
        ("llama", {"attention__key_length": None}, {"head_dim": 16}),
        ("llama", {"attention__head_count_kv": [2, 2, 2, 2]}, {"num_key_value_heads": 2}),
        ("llama", {"rope__scale_linear": 2.0}, {"rope_parameters.rope_type": "linear", "rope_parameters.factor": 2.0}),
        ("llama", {"rope__scaling__type": "none"}, {"rope_parameters.rope_type": "default"}),
        ("granite", {}, {"attention_multiplier": 32**-0.5, "logits_scaling": 1.0}),
        ("gemma2", {}, {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 50.0, "sliding_window": 4096}),
        ("gemma2", {"block_count": 46}, {"query_pre_attn_scalar": 16}),
        ("gemma3", {}, {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
        ("gemma3", {"block_count": 62}, {"query_pre_attn_scalar": 16}),
        (
            "gemma3",
            {"attention__sliding_window": 9, "attention__sliding_window_pattern": [True, False, True, True]},
            {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]},
        ),
        (
            "gemma3",
            {"rope__freq_base": 1e6, "rope__scaling__type": "linear", "rope__scaling__factor": 8.0},
            {
                "rope_parameters.full_attention.factor": 8.0,
                "rope_parameters.full_attention.rope_theta": 1e6,
                "rope_parameters.sliding_attention.rope_theta": 1e4,
                "rope_parameters.sliding_attention.rope_type": "default",
            },
        ),
        ("phi3", {"attention__sliding_window": 9}, {"sliding_window": 9}),
        ("smollm3", {}, {"no_rope_layers": [1, 1, 1, 0]}),
    ],
)
def test_settings_become_those_of_config_json(
    architecture: str, settings: Settings, wanted: Settings, tmp_path: Path
) -> None:
    config = described(tmp_path, architecture, **settings)
    for path, value in wanted.items():
        assert functools.reduce(lambda inner, key: inner[key], path.split("."), config) == value, path


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("rwkv6", {}, "architecture 'rwkv6' is not known; known are falcon, gemma2, .*stablelm"),
        ("llama", {"rope__scaling__type": "su"}, "rope scaling 'su' is not known"),
        ("phi3", {"rope__scaling__type": "longrope"}, "rope scaling 'longrope' is not known"),
        ("llama", {"attention__value_length": 8}, r"llama.attention.value_length = 8 is not supported"),
        ("llama", {"attention__head_count_kv": [2, 2, 4, 4]}, "llama.attention.head_count_kv differs between layers"),
        ("llama", {"attention__temperature_scale": 0.5}, "llama.attention.temperature_scale is not supported"),
        ("qwen2", {"attention__sliding_window": 9}, "qwen2.attention.sliding_window is not supported"),
        ("qwen3moe", {"expert_gating_func": 2}, "qwen3moe.expert_gating_func = 2 is not supported"),
    ],
)
def test_what_changes_the_mathematics_and_is_not_known_is_refused_by_name(
    architecture: str, settings: Settings, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        described(tmp_path, architecture, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_count": None}, "lacks llama.block_count: convert the checkpoint again"),
        ({"attention__layer_norm_rms_epsilon": None}, "lacks llama.attention.layer_norm_rms_epsilon"),
        ({"attention__head_count": 0}, "llama.attention.head_count must be a positive whole number, found 0"),
        ({"embedding_length": "many"}, "llama.embedding_length must be a whole number, found 'many'"),
        ({"rope__freq_base": float("inf")}, "llama.rope.freq_base must be a finite number, found inf"),
        ({"rope__freq_base": "high"}, "llama.rope.freq_base must be a finite number, found 'high'"),
    ],
)
def test_a_missing_or_odd_setting_is_refused_by_name(settings: Settings, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        described(tmp_path, "llama", **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llama", {"llama.attention.head_count": 8}, "64 rows are not 8 heads of 16"),
        ("llama", {"llama.attention.key_length": 7, "llama.attention.value_length": 7}, "32 rows are not 2 heads of 7"),
        ("gptneox", {"gptneox.attention.head_count_kv": 3}, "192 rows are not 4 heads of 16 in 3 groups"),
        ("llama", {"llama.block_count": 5}, "llama.block_count is 5, found tensors of 4 layers"),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_refused(
    name: str, settings: Settings, message: str, write_gguf: WriteGguf
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_gguf(write_gguf(name, **settings))


def test_frequencies_that_are_stored_become_divisors(write_gguf: WriteGguf, tmp_path: Path) -> None:
    divisors = np.linspace(1, 4, num=8, dtype=np.float32)
    file = with_tensor(write_gguf("llama"), tmp_path, "rope_freqs.weight", divisors)
    rotary = read_architecture(open_gguf(file).config).rotaries[0]
    assert rotary is not None
    np.testing.assert_allclose(rotary.frequencies(), 1e4 ** (-np.arange(8) / 8) / divisors)


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "blk.0.ffn_gate.3.weight", "blk.0.attn_norm.bias", "odd"])
def test_a_tensor_that_is_not_known_is_refused_by_name(name: str, write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = with_tensor(write_gguf("llama"), tmp_path, name, np.ones(4, np.float32))
    with pytest.raises(UnsupportedModel, match=f"tensor '{name}' is not known in this architecture"):
        open_gguf(file)


def with_tensor(path: Path, folder: Path, name: str, array: Array) -> Path:
    """A copy of a file in float32 with one more tensor."""
    file = GgufFile.open(path)
    tensors = {
        known: (GgufTensors({known: GgufTensor(blocks=blocks)}).read(known, blocks.shape), KINDS["F32"])
        for known, blocks in file.tensors.items()
    }
    architecture = file.metadata["general.architecture"]
    settings = {key: value for key, value in file.metadata.items() if key != "general.architecture"}
    return write(folder / "more.gguf", architecture, settings, tensors | {name: (array, KINDS["F32"])})


def test_long_factors_without_short_ones_are_refused(write_gguf: WriteGguf, tmp_path: Path) -> None:
    name = "rope_factors_long.weight"
    file = with_tensor(write_gguf("phi3"), tmp_path, name, np.ones(8, np.float32))
    with pytest.raises(CheckpointError, match=r"has no tensor 'rope_factors_short.weight'"):
        open_gguf(file)


def test_one_part_of_several_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match="one part of several: join them with llama-gguf-split --merge"):
        open_gguf(write_gguf("llama", **{"split.count": 3}))

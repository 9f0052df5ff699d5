"""GGUF files give the models of the checkpoints that they were made from."""

from __future__ import annotations

import functools
import itertools
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import pytest
import tokenizers
from conftest import MakeBundle, MakeCheckpoint
from gguf import GGMLQuantizationType, TokenType
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from skipstone.errors import CheckpointError, ConfigError, UnsupportedModel
from skipstone.exporters.checkpoint import Checkpoint
from skipstone.exporters.families import read_architecture
from skipstone.exporters.gguf_file import GgufFile, GgufTensor, GgufTensors
from skipstone.exporters.gguf_settings import ARCHITECTURES, open_gguf
from skipstone.runtime.chat import ChatTemplate
from skipstone.runtime.draft import Draft
from skipstone.runtime.model import Model

Array = NDArray[Any]
Settings = dict[str, Any]
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=20).tolist())
KINDS = {kind.name: kind for kind in GGMLQuantizationType}
WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


# A converter: what it takes from a checkpoint, in the names and the order of llama.cpp


@dataclass(frozen=True)
class Case:
    """A checkpoint, and how it is written: `extra` are the settings of its family."""

    model_type: str
    architecture: str
    config: Settings = field(default_factory=dict)
    extra: Callable[[Settings], Settings] = lambda config: {}


def rope(**parameters: object) -> Settings:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


def turning(config: Settings, head_size: int) -> Settings:
    return {"rope.dimension_count": int(head_size * config["rope_parameters"]["partial_rotary_factor"])}


def two_layers(**config: object) -> Settings:
    return {"num_hidden_layers": 2, **config}


def granite_scales(config: Settings) -> Settings:
    return {
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


def gemma(config: Settings) -> Settings:
    caps = {key: config[key] for key in ("attn_logit_softcapping", "final_logit_softcapping") if config.get(key)}
    return {"attention.sliding_window": config["sliding_window"], **caps}


def falcon_heads(config: Settings) -> Settings:
    return {"attention.head_count_kv": config["num_kv_heads"] if config["new_decoder_architecture"] else 1}


def experts(config: Settings) -> Settings:
    count = config.get("num_local_experts") or config["num_experts"]
    return {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}


GEMMA3 = {"num_hidden_layers": 7, "sliding_window": 5, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
LONGROPE = rope(
    rope_type="longrope",
    partial_rotary_factor=0.5,
    short_factor=[1.0, 1.5, 2.0, 3.0],
    long_factor=[2.0, 4.0, 8.0, 9.0],
)
CASES = {
    "llama": Case("llama", "llama"),
    "llama, whole blocks": Case("llama", "llama", WHOLE_BLOCKS),
    "llama, tied": Case("llama", "llama", two_layers(tie_word_embeddings=True)),
    "llama, all biases": Case("llama", "llama", two_layers(mlp_bias=True, attention_bias=True)),
    "llama, head size not stated": Case("llama", "llama", two_layers(num_attention_heads=2, head_dim=None)),
    "llama, linear rope": Case(
        "llama",
        "llama",
        two_layers(**rope(rope_type="linear", factor=4.0)),
        lambda config: {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama, yarn rope": Case(
        "llama",
        "llama",
        two_layers(**rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
        lambda config: {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "mistral": Case("mistral", "llama", two_layers(sliding_window=None)),
    "mixtral": Case("mixtral", "llama", two_layers(num_local_experts=4), experts),
    "mixtral, whole blocks": Case("mixtral", "llama", WHOLE_BLOCKS | {"num_local_experts": 4}, experts),
    "smollm3": Case("smollm3", "smollm3", {"pad_token_id": 0, "no_rope_layer_interval": 4}),
    "granite": Case(
        "granite",
        "granite",
        two_layers(
            hidden_size=64,
            attention_multiplier=0.2,
            embedding_multiplier=3.0,
            residual_multiplier=0.5,
            logits_scaling=4.0,
        ),
        granite_scales,
    ),
    "qwen2": Case("qwen2", "qwen2"),
    "qwen2, tied": Case("qwen2", "qwen2", two_layers(tie_word_embeddings=True)),
    "qwen3": Case("qwen3", "qwen3", two_layers()),
    "qwen3moe": Case(
        "qwen3_moe",
        "qwen3moe",
        two_layers(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=44, norm_topk_prob=True),
        lambda config: experts(config) | {"expert_feed_forward_length": config["moe_intermediate_size"]},
    ),
    "olmoe": Case("olmoe", "olmoe", two_layers(hidden_size=64, num_experts=4, num_experts_per_tok=2), experts),
    "olmo2": Case("olmo2", "olmo2", two_layers(hidden_size=64)),
    "phi3": Case("phi3", "phi3", two_layers(hidden_size=64, pad_token_id=0, sliding_window=None)),
    "phi3, longrope": Case(
        "phi3",
        "phi3",
        two_layers(hidden_size=64, pad_token_id=0, original_max_position_embeddings=64, **LONGROPE),
        lambda config: (
            turning(config, 16)
            | {
                "attention.sliding_window": 0,
                "rope.scaling.original_context_length": 64,
                "rope.scaling.attn_factor": (1 + np.log(4) / np.log(64)) ** 0.5,
            }
        ),
    ),
    "gemma2": Case(
        "gemma2",
        "gemma2",
        {"sliding_window": 5, "query_pre_attn_scalar": 16, "tie_word_embeddings": True},
        gemma,
    ),
    "gemma3": Case("gemma3_text", "gemma3", GEMMA3, gemma),
    "stablelm": Case(
        "stablelm",
        "stablelm",
        two_layers(hidden_size=64, use_qkv_bias=True),
        lambda config: turning(config, 16) | {"use_parallel_residual": False},
    ),
    "stablelm, norms of heads": Case(
        "stablelm",
        "stablelm",
        two_layers(hidden_size=64, qk_layernorm=True, use_parallel_residual=True),
        lambda config: turning(config, 16) | {"use_parallel_residual": True},
    ),
    "gptneox": Case(
        "gpt_neox",
        "gptneox",
        two_layers(hidden_size=64),
        lambda config: turning(config, 16) | {"use_parallel_residual": True},
    ),
    "gptneox, whole blocks": Case(
        "gpt_neox",
        "gptneox",
        WHOLE_BLOCKS | {"use_parallel_residual": False},
        lambda config: turning(config, 16) | {"use_parallel_residual": False},
    ),
    "gpt2": Case("gpt2", "gpt2", two_layers(hidden_size=64)),
    "falcon, one key-value head": Case("falcon", "falcon", two_layers(hidden_size=64, multi_query=True), falcon_heads),
    "falcon, two norms": Case(
        "falcon", "falcon", two_layers(hidden_size=64, new_decoder_architecture=True, num_kv_heads=2), falcon_heads
    ),
}


def hf_settings(case: Case, config: Settings) -> Settings:
    """The settings of every family, by GGUF's keys without the architecture in front."""
    get = config.get
    hidden, num_heads = get("hidden_size") or get("n_embd"), get("num_attention_heads") or get("n_head")
    rope_parameters = get("rope_parameters") or {}
    theta = rope_parameters.get("full_attention", rope_parameters).get("rope_theta")
    kv_heads = get("num_key_value_heads") or get("num_kv_heads") or (1 if get("multi_query") else num_heads)
    settings = {
        "context_length": get("max_position_embeddings") or get("n_positions"),
        "embedding_length": hidden,
        "feed_forward_length": get("intermediate_size") or 4 * hidden,
        "block_count": get("num_hidden_layers") or get("n_layer"),
        "attention.head_count": num_heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": get("rms_norm_eps"),
        "attention.layer_norm_epsilon": get("layer_norm_eps") or get("layer_norm_epsilon"),
        "attention.key_length": get("head_dim"),
        "attention.value_length": get("head_dim"),
        "rope.freq_base": theta,
    }
    return {key: value for key, value in settings.items() if value is not None} | case.extra(config)


def hf_tensors(case: Case, folder: Path, config: Settings) -> Iterator[tuple[str, Array]]:
    """Each tensor in float32 by GGUF's name. The names are those of the package gguf."""
    num_layers = config.get("num_hidden_layers") or config["n_layer"]
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == case.architecture)
    names = gguf.get_tensor_name_map(architecture, num_layers)
    stacked: dict[str, list[Array]] = {}
    tensors = load_file(folder / "model.safetensors")
    for name in sorted(tensors, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")]):
        stem, _, kind = name.rpartition(".")
        stem, num_parts = re.subn(r"(experts|norms)\.\d+\.?", lambda match: match[1] + ".", stem)
        stem = stem.replace("layernorm.norms.", "layernorm")
        theirs = names.get_name(stem)
        assert theirs is not None, name
        array = rearranged(case, f"{stem}.{kind}", tensors[name], config)
        if num_parts:
            stacked.setdefault(f"{theirs}.{kind}", []).append(array)
        else:
            yield f"{theirs}.{kind}", array
    for theirs, arrays in stacked.items():
        yield theirs, np.stack(arrays)
    if case.architecture == "phi3" and config["rope_parameters"].get("long_factor"):
        for kind in ("short", "long"):
            yield f"rope_factors_{kind}.weight", np.array(config["rope_parameters"][f"{kind}_factor"], np.float32)


def rearranged(case: Case, name: str, array: Array, config: Settings) -> Array:
    num_heads = config.get("num_attention_heads") or config["n_head"]
    kv_heads = config.get("num_key_value_heads") or config.get("num_kv_heads") or num_heads
    match case.architecture:
        case "llama" | "smollm3" | "granite" if (found := re.search(r"\.([qk])_proj\.", name)) is not None:
            heads = num_heads if found[1] == "q" else kv_heads
            halves = array.reshape(heads, 2, -1, *array.shape[1:])
            return np.swapaxes(halves, 1, 2).reshape(array.shape)
        case "gemma2" | "gemma3" if name.endswith("norm.weight"):
            return array + np.float32(1)
        case "gptneox" if "query_key_value" in name:
            return np.swapaxes(array.reshape(num_heads, 3, -1, *array.shape[1:]), 0, 1).reshape(array.shape)
        case "falcon" if "query_key_value" in name:
            groups = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
            parts = array.reshape(groups, num_heads // groups + 2, -1, array.shape[1])
            kinds = (parts[:, :-2], parts[:, -2], parts[:, -1])
            return np.concatenate([part.reshape(-1, array.shape[1]) for part in kinds])
        case "gpt2" if re.search(r"c_(attn|proj|fc)\.weight", name):
            return np.ascontiguousarray(array.T)
    return array


class WriteGguf(Protocol):
    def __call__(self, case: Case, *, kind: str = ..., without: str = ..., **settings: object) -> Path: ...


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: Mapping[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds.get(type(value), writer.add_float32)(key, value)


def write(
    path: Path, architecture: str, settings: Settings, tensors: Mapping[str, tuple[Array, GGMLQuantizationType]]
) -> Path:
    """A file with settings by their full keys, and tensors as numbers or as the bytes of blocks."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in settings.items():
        add(writer, key, value)
    for name, (array, kind) in tensors.items():
        stored = array if array.dtype == np.uint8 else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_settings(folder: Path, vocab_size: int) -> Settings:
    """The tokenizer of a checkpoint, filled up to the size of its vocabulary."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [int(TokenType.UNUSED)] * vocab_size
    for token, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id] = token
        kinds[token_id] = int(TokenType.CONTROL if token in special else TokenType.NORMAL)
    settings = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": kinds,
        "merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in settings.items()}


@pytest.fixture(scope="session")
def write_gguf(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> WriteGguf:
    """Convert the checkpoint of a case, its matrices in one kind of blocks; settings are added by their full keys."""

    @functools.cache
    def make(name: str, kind: str) -> tuple[Settings, dict[str, tuple[Array, GGMLQuantizationType]]]:
        case = CASES[name]
        folder = make_checkpoint(case.model_type, **case.config)
        config = json.loads((folder / "config.json").read_text())
        settings = {f"{case.architecture}.{key}": value for key, value in hf_settings(case, config).items()}
        tensors = {
            name: (array, KINDS[kind] if array.ndim > 1 and "norm" not in name else KINDS["F32"])
            for name, array in hf_tensors(case, folder, config)
        }
        return settings | byte_level_settings(folder, config["vocab_size"]), tensors

    def write_case(case: Case, *, kind: str = "F32", without: str = "", **settings: object) -> Path:
        name = next(name for name, known in CASES.items() if known is case)
        stated, tensors = make(name, kind)
        kept = {key: value for key, value in (stated | settings).items() if key != without}
        path = tmp_path_factory.mktemp("gguf") / "model.gguf"
        return write(path, case.architecture, kept, tensors)

    return write_case


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
    folder, file = make_checkpoint(case.model_type, **case.config), write_gguf(case)
    np.testing.assert_allclose(logits(make_bundle(file)), logits(make_bundle(folder)), rtol=0, atol=1e-5)


def test_transformers_reads_the_same_model_from_a_file(
    write_gguf: WriteGguf, reference_logits: Callable[[Path, tuple[int, ...]], Array], make_checkpoint: MakeCheckpoint
) -> None:
    import torch
    import transformers

    case = CASES["llama, head size not stated"]
    file = write_gguf(case)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        found = model.eval()(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    wanted = reference_logits(make_checkpoint(case.model_type, **case.config), TOKEN_IDS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_names_of_an_architecture_are_those_that_its_converter_knows(architecture: str) -> None:
    kinds = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(kinds[architecture], 1)
    tables = [ARCHITECTURES[architecture].names, *ARCHITECTURES[architecture].beside.values()]
    for theirs, ours in (pair for table in tables for pair in table.items()):
        if (architecture, theirs) == ("gemma2", "output"):
            continue  # llama.cpp leaves the tied matrix out
        plain = ours.format(layer=0, part="").replace("..", ".").removesuffix(".norms.")
        assert known.get_name(plain) == theirs.replace("blk.", "blk.0."), ours


# Blocks


def one_matrix(path: Path, name: str, array: Array, kind: str, *, architecture: str = "llama") -> Path:
    return write(path / "one.gguf", architecture, {}, {name: (array, KINDS[kind])})


def random_blocks(kind: str, *, num_rows: int, num_blocks: int) -> NDArray[np.uint8]:
    """Bytes below 60, as which every float16 is finite."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    size = (num_rows, num_blocks * block_bytes)
    return np.random.default_rng(0).integers(0, 60, size=size).astype(np.uint8)


READABLE = (
    *("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("TQ1_0", "TQ2_0", "MXFP4", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL"),
    "IQ4_XS",
)


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_of_blocks_gives_the_numbers_of_the_package_gguf(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, num_rows=5, num_blocks=3)
    wanted = gguf.quants.dequantize(blocks, KINDS[kind])
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, kind))
    tensors = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])})
    assert tensors.shape("ours") == wanted.shape
    np.testing.assert_array_equal(tensors.read("ours", wanted.shape), wanted)
    assert tensors.is_quantized("ours") == (kind in ("Q4_0", "Q8_0"))


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_integers_are_carried_over_bit_for_bit(kind: str, tmp_path: Path) -> None:
    blocks = random_blocks(kind, num_rows=7, num_blocks=3)
    wanted = gguf.quants.dequantize(blocks, KINDS[kind])
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, kind))
    matrix = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])}).read_quantized("ours", (7, 96))
    assert (matrix.bits, matrix.block_size, matrix.zero_points) == (int(kind[1]), 32, None)
    np.testing.assert_array_equal(matrix.dequantize(), wanted)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q8_0"])
def test_a_tensor_of_many_pieces_is_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipstone.exporters.gguf_file._PIECE_BYTES", 250)
    array = np.random.default_rng(0).normal(size=(3, 11, 64)).astype(np.float32)
    order = np.random.default_rng(1).permutation(11)
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", array, kind))
    tensors = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"], part=1, order=order)})
    wanted = np.empty((11, 64), np.float32)
    wanted[order] = gguf.quants.dequantize(gguf.quants.quantize(array, KINDS[kind]), KINDS[kind])[1]
    np.testing.assert_array_equal(tensors.read("ours", (11, 64)), wanted)
    if kind != "F32":
        np.testing.assert_array_equal(tensors.read_quantized("ours", (11, 64)).dequantize(), wanted)


@pytest.mark.parametrize("name", ["llama, whole blocks", "mixtral, whole blocks", "gptneox, whole blocks"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_the_integers_of_a_whole_model_stand_for_the_numbers_that_are_read(
    name: str, kind: str, write_gguf: WriteGguf
) -> None:
    tensors = open_gguf(write_gguf(CASES[name], kind=kind)).tensors
    matrices = [name for name in tensors.names() if len(tensors.shape(name)) == 2]
    assert matrices and all(tensors.is_quantized(name) for name in matrices)
    for name in matrices:
        num_rows, columns = tensors.shape(name)
        carried = tensors.read_quantized(name, (num_rows, columns)).dequantize()
        np.testing.assert_array_equal(carried, tensors.read(name, (num_rows, columns)))


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.02), ("Q8_0", 0.6)])
def test_a_file_of_blocks_exports_and_stays_near_its_checkpoint(
    kind: str, tolerance: float, write_gguf: WriteGguf, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES["llama, whole blocks"]
    found = logits(make_bundle(write_gguf(case, kind=kind)))
    wanted = logits(make_bundle(make_checkpoint(case.model_type, **case.config)))
    assert 0 < np.abs(found - wanted).max() < tolerance


def test_matrices_that_gpt2_has_the_other_way_round_are_read_as_numbers(write_gguf: WriteGguf) -> None:
    tensors = open_gguf(write_gguf(CASES["gpt2"], kind="Q8_0")).tensors
    assert tensors.shape("transformer.h.0.mlp.c_fc.weight") == (64, 256)
    assert not tensors.is_quantized("transformer.h.0.mlp.c_fc.weight")
    assert tensors.is_quantized("transformer.wte.weight")


def test_numbers_are_not_given_as_integers(write_gguf: WriteGguf) -> None:
    tensors = open_gguf(write_gguf(CASES["llama"])).tensors
    assert not tensors.is_quantized("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*numbers, not as integers"):
        tensors.read_quantized("lm_head.weight", (307, 52))


def test_scales_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    blocks = np.full((2, 34), 0xFF, np.uint8)
    file = GgufFile.open(one_matrix(tmp_path, "output.weight", blocks, "Q8_0"))
    tensors = GgufTensors({"ours": GgufTensor(blocks=file.tensors["output.weight"])})
    with pytest.raises(CheckpointError, match="'ours' has NaN or infinite scales"):
        tensors.read_quantized("ours", (2, 32))


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
        open_gguf(write_gguf(CASES[name], **settings))


def test_frequencies_that_are_stored_become_divisors(write_gguf: WriteGguf, tmp_path: Path) -> None:
    divisors = np.linspace(1, 4, num=8, dtype=np.float32)
    file = with_tensor(write_gguf(CASES["llama"]), tmp_path, "rope_freqs.weight", divisors)
    rotary = read_architecture(open_gguf(file).config).rotaries[0]
    assert rotary is not None
    np.testing.assert_allclose(rotary.frequencies(), 1e4 ** (-np.arange(8) / 8) / divisors)


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "blk.0.ffn_gate.3.weight", "blk.0.attn_norm.bias", "odd"])
def test_a_tensor_that_is_not_known_is_refused_by_name(name: str, write_gguf: WriteGguf, tmp_path: Path) -> None:
    file = with_tensor(write_gguf(CASES["llama"]), tmp_path, name, np.ones(4, np.float32))
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


# Damage


def test_a_file_without_an_architecture_is_refused(whole_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(whole_file.replace(b"general.architecture", b"general.architecturf"))
    with pytest.raises(CheckpointError, match=r"no.gguf: lacks general.architecture: convert the checkpoint again"):
        Checkpoint.open(tmp_path / "no.gguf")


def test_long_factors_without_short_ones_are_refused(write_gguf: WriteGguf, tmp_path: Path) -> None:
    name = "rope_factors_long.weight"
    file = with_tensor(write_gguf(CASES["phi3"]), tmp_path, name, np.ones(8, np.float32))
    with pytest.raises(CheckpointError, match=r"has no tensor 'rope_factors_short.weight'"):
        open_gguf(file)


def test_one_part_of_several_is_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match="one part of several: join them with llama-gguf-split --merge"):
        open_gguf(write_gguf(CASES["llama"], **{"split.count": 3}))


@pytest.fixture(scope="session")
def whole_file(write_gguf: WriteGguf) -> bytes:
    return write_gguf(CASES["llama, tied"]).read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, whole_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole_file[: int(share * len(whole_file))])
    with pytest.raises(CheckpointError, match=r"cut.gguf: (not a GGUF file|truncated)"):
        Checkpoint.open(path)


@given(data=st.data())
def test_a_header_with_other_bytes_raises_only_our_errors(
    data: st.DataObject, whole_file: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(whole_file)
    for place in data.draw(st.lists(st.integers(0, 20_000), min_size=1, max_size=5)):
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(damaged)
    try:
        checkpoint = Checkpoint.open(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert checkpoint.texts["tokenizer.json"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"safetensors", "not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian: turn a copy around with gguf-convert-endian bad.gguf little"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1, wanted one of 2, 3"),
        (b"version https://git-lfs", "is a git-lfs pointer"),
    ],
)
def test_what_is_no_gguf_file_is_refused(start: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(start + bytes(40))
    with pytest.raises(CheckpointError, match=f"bad.gguf: .*{message}"):
        Checkpoint.open(tmp_path / "bad.gguf")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.gguf: cannot be read: No such file"):
        Checkpoint.open("nowhere.gguf")


def test_a_revision_does_not_apply_to_a_file(write_gguf: WriteGguf) -> None:
    with pytest.raises(ConfigError, match="revision 'main' does not apply to the local file"):
        Checkpoint.open(write_gguf(CASES["llama"]), revision="main")


def test_without_the_package_the_extra_is_named(write_gguf: WriteGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(CASES["llama"])
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install skipstone\[gguf\]"):
        Checkpoint.open(path)


# Tokenizers


def tokenizer_of(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_buffer(checkpoint.texts["tokenizer.json"])


@given(text=st.text())
def test_a_byte_level_tokenizer_gives_the_ids_of_the_checkpoints(
    text: str, write_gguf: WriteGguf, tokenizer_json: str
) -> None:
    assume("<" not in text)
    original = tokenizers.Tokenizer.from_str(tokenizer_json)
    assert tokenizer_of(opened(write_gguf, "llama")).encode(text).ids == original.encode(text).ids


@functools.cache
def opened(write_gguf: WriteGguf, name: str) -> Checkpoint:
    return open_gguf(write_gguf(CASES[name]))


def test_special_tokens_keep_their_ids_and_are_found_in_a_text(write_gguf: WriteGguf, tokenizer_json: str) -> None:
    tokenizer, original = tokenizer_of(opened(write_gguf, "llama")), tokenizers.Tokenizer.from_str(tokenizer_json)
    assert tokenizer.get_vocab() == original.get_vocab()
    text = "a<s>b</s> [PAD305]"
    assert tokenizer.encode(text).ids == original.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text).ids) == "ab [PAD305]"


def test_first_and_last_tokens_go_around_a_text_where_the_file_says_so(write_gguf: WriteGguf) -> None:
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    ids = tokenizer_of(open_gguf(write_gguf(CASES["llama"], **both))).encode("x").ids
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 3)


def test_the_ends_of_turns_are_stop_tokens_too(write_gguf: WriteGguf) -> None:
    ids = {f"tokenizer.ggml.{role}_token_id": number for role, number in {"eot": 9, "eom": 2, "padding": 0}.items()}
    checkpoint = open_gguf(write_gguf(CASES["llama"], **ids))
    wanted = {"bos_token_id": 1, "eos_token_id": [2, 9], "pad_token_id": 0}
    assert checkpoint.generation_config == json.loads(checkpoint.texts["generation_config.json"]) == wanted


def test_a_chat_template_comes_with_the_tokens_that_it_writes(write_gguf: WriteGguf, tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    checkpoint = open_gguf(write_gguf(CASES["llama"], **{"tokenizer.chat_template": template}))
    for name, content in checkpoint.texts.items():
        (tmp_path / name).write_bytes(content)
    chat = ChatTemplate.load(tmp_path)
    assert chat is not None
    assert chat.render([{"role": "user", "content": "hi"}]) == "<s>hi</s>"


WORDS = {
    "gpt-2": "It|'s| 12345| a|./| DON|'|T|\n|\n|X",
    "default": "It|'s| 12345| a|./| DON|'|T|\n|\n|X",
    "llama-bpe": "It|'s| |123|45| a|./| DON|'T|\n\n|X",
    "qwen2": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "smollm": "It|'s| |1|2|3|4|5| a|./| DON|'|T|\n|\n|X",
    "tekken": "It|'s| |1|2|3|4|5| a|./| DON|'T|\n\n|X",
    "gpt-4o": "It's| |123|45| a|./| DON'T|\n\n|X",
    "falcon": "It|'|s| |123|45| a|./| DON|'|T|\n|\n|X",
}


@pytest.mark.parametrize("pre", WORDS)
def test_a_text_is_cut_into_words_as_the_file_says(pre: str, write_gguf: WriteGguf) -> None:
    tokenizer = tokenizer_of(open_gguf(write_gguf(CASES["llama"], **{"tokenizer.ggml.pre": pre})))
    text = "It's 12345 a./ DON'T\n\nX"
    words = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert words == WORDS[pre].split("|")


def test_an_unknown_way_to_cut_words_is_refused_with_the_known_ones(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match=r"pre-tokenizer 'odd' is not known; known are codeshell, .*tekken"):
        open_gguf(write_gguf(CASES["llama"], **{"tokenizer.ggml.pre": "odd"}))


def test_an_unknown_tokenizer_is_refused_by_name(write_gguf: WriteGguf) -> None:
    with pytest.raises(UnsupportedModel, match="tokenizer 't5' is not known; known are gpt2 and llama"):
        open_gguf(write_gguf(CASES["llama"], **{"tokenizer.ggml.model": "t5"}))


@pytest.mark.parametrize("key", ["model", "pre", "tokens", "merges"])
def test_a_tokenizer_that_lacks_a_part_is_refused_by_name(key: str, write_gguf: WriteGguf) -> None:
    with pytest.raises(CheckpointError, match=f"lacks tokenizer.ggml.{key}: convert the checkpoint again"):
        open_gguf(write_gguf(CASES["llama"], without=f"tokenizer.ggml.{key}"))


def test_merges_that_do_not_belong_to_the_tokens_are_damage(write_gguf: WriteGguf) -> None:
    with pytest.raises(CheckpointError, match="its tokenizer is damaged"):
        open_gguf(write_gguf(CASES["llama"], **{"tokenizer.ggml.merges": ["no such", "pair no"]}))


# SentencePiece

WORDS_OF_PIECES = [
    "\u2581",
    "a",
    "b",
    "c",
    "1",
    "\u00e9",
    "ab",
    "\u2581a",
    "abc",
    "bc",
    "\u2581abc",
    "\u2581\u2581",
    "cab",
    "11",
]


def pieces() -> tuple[list[str], list[int], list[float]]:
    """Tokens, kinds and scores: three that are special, one for each byte, a run of spaces, and the pieces."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "   ", *WORDS_OF_PIECES]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, TokenType.USER_DEFINED]
    kinds += [TokenType.NORMAL] * len(WORDS_OF_PIECES)
    scores = [0.0] * 260 + [-float(place) for place in range(len(WORDS_OF_PIECES))]
    return tokens, [int(kind) for kind in kinds], scores


def merged_by_score(text: str, *, prefix: bool) -> list[int]:
    """What the sentencepiece library does, step by step: merge the neighbours whose piece has the best score."""
    tokens, _, scores = pieces()
    symbols = list((" " * prefix + text).replace(" ", "\u2581"))
    while True:
        pairs = [
            (scores[tokens.index(pair)], -place)
            for place, pair in enumerate(map("".join, itertools.pairwise(symbols)))
            if pair in WORDS_OF_PIECES
        ]
        if not pairs:
            break
        place = -max(pairs)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    ids = []
    for symbol in symbols:
        ids += [tokens.index(symbol)] if symbol in tokens else [3 + byte for byte in symbol.encode()]
    return ids


@functools.cache
def sentencepiece_file(write_gguf: WriteGguf, prefix: bool) -> tokenizers.Tokenizer:
    tokens, kinds, scores = pieces()
    settings = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, "add_space_prefix": prefix}
    return tokenizer_of(
        open_gguf(write_gguf(CASES["llama"], **{f"tokenizer.ggml.{key}": value for key, value in settings.items()}))
    )


@pytest.mark.parametrize("prefix", [True, False])
@given(text=st.text(st.sampled_from("abc 1\u00e9")) | st.text())
def test_a_sentencepiece_tokenizer_merges_by_score(text: str, prefix: bool, write_gguf: WriteGguf) -> None:
    assume("   " not in text and "\u2581" not in text and "<" not in text and text)
    tokenizer = sentencepiece_file(write_gguf, prefix)
    assert tokenizer.encode(text).ids == [1, *merged_by_score(text, prefix=prefix)]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_user_defined_runs_of_spaces_are_tokens(write_gguf: WriteGguf) -> None:
    tokenizer = sentencepiece_file(write_gguf, False)
    ids = tokenizer.encode("a   b").ids
    assert [tokenizer.id_to_token(token_id) for token_id in ids] == ["<s>", "a", "\u2581\u2581\u2581", "b"]
    assert tokenizer.decode(ids) == "a   b"

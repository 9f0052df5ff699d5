"""GGUF files of tiny checkpoints: a converter in the names and the order of llama.cpp, and the models to convert."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
from conftest import MakeCheckpoint
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]
Settings = dict[str, Any]
KINDS = {kind.name: kind for kind in GGMLQuantizationType}
# Where the float16 numbers of a block lie: the scale, and what is added or (in K kinds) subtracted.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)} | dict.fromkeys(("Q4_K", "Q5_K", "Q4_1", "Q5_1"), (0, 2))
WITH_MINIMUM = {"Q4_1": 15, "Q5_1": 31, "Q2_K": 3, "Q4_K": 15, "Q5_K": 31}  # the largest code
WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


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
    "llama, blocks of 256": Case(
        "llama",
        "llama",
        WHOLE_BLOCKS | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "initializer_range": 0.05},
    ),
    "llama, whole blocks, heads of 24": Case(
        "llama", "llama", two_layers(hidden_size=96, intermediate_size=96, head_dim=24)
    ),
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
    def __call__(self, name: str, *, kind: str = ..., without: str = ..., **settings: object) -> Path: ...


def converter(make_checkpoint: MakeCheckpoint, make_folder: Callable[[], Path]) -> WriteGguf:
    """Return what writes a case as a file, its matrices in one kind of blocks.

    Settings are added by their full keys; the one called `without` is left out.
    """

    @functools.cache
    def converted(name: str, kind: str) -> tuple[Settings, dict[str, tuple[Array, GGMLQuantizationType]]]:
        case = CASES[name]
        folder = make_checkpoint(case.model_type, **case.config)
        config = json.loads((folder / "config.json").read_text())
        settings = {f"{case.architecture}.{key}": value for key, value in hf_settings(case, config).items()}
        tensors = {
            name: (array, KINDS[kind] if array.ndim > 1 and "norm" not in name else KINDS["F32"])
            for name, array in hf_tensors(case, folder, config)
        }
        return settings | byte_level_settings(folder, config["vocab_size"]), tensors

    def write_case(name: str, *, kind: str = "F32", without: str = "", **settings: object) -> Path:
        stated, tensors = converted(name, kind)
        kept = {key: value for key, value in (stated | settings).items() if key != without}
        return write(make_folder() / "model.gguf", CASES[name].architecture, kept, tensors)

    return write_case


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: Mapping[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds.get(type(value), writer.add_float32)(key, value)


def random_blocks(
    kind: str, num_rows: int, columns: int, *, seed: int = 0, reach: float = 1.0, size: float = 0.0
) -> NDArray[np.uint8]:
    """Blocks of plausible scales, of weights of about this `size` if any.

    Where a kind has a minimum, blocks lie around 0, `reach` times as far as codes go.
    """
    random = np.random.default_rng(seed)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    blocks = random.integers(0, 256, size=(num_rows * columns // block_size, block_bytes), dtype=np.uint8)
    steps = random.lognormal(sigma=0.5, size=len(blocks)) / 100
    shares = random.random(len(blocks)) * reach * (1 if kind.endswith("_K") else -1)
    for _ in range(2 if size else 1):
        for at, values in zip(
            SCALES.get(kind, (0,)), (steps, steps * shares * WITH_MINIMUM.get(kind, 0)), strict=False
        ):
            blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
        steps = steps * (size / gguf.quants.dequantize(blocks, KINDS[kind]).std())
    return blocks.reshape(num_rows, -1)


def in_blocks(array: Array, kind: GGMLQuantizationType) -> Array:
    """The array in blocks; of kinds that the package gguf cannot make, blocks of random codes and about that size."""
    try:
        return gguf.quants.quantize(array, kind)
    except NotImplementedError:
        rows = random_blocks(kind.name, array.size // array.shape[-1], array.shape[-1], size=float(array.std()))
        return rows.reshape(*array.shape[:-1], -1)


def write(
    path: Path, architecture: str, settings: Settings, tensors: Mapping[str, tuple[Array, GGMLQuantizationType]]
) -> Path:
    """A file with settings by their full keys, and tensors as numbers or as the bytes of blocks."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in settings.items():
        add(writer, key, value)
    for name, (array, kind) in tensors.items():
        stored = array if array.dtype == np.uint8 else in_blocks(array, kind)
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

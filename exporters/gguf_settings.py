"""A GGUF file as a checkpoint: its settings as a config.json would have them, its tensors by Hugging Face's names.

One row per architecture says what a converter changed. Sources: the converter and the loaders of llama.cpp.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoint import Checkpoint
from skipstone.exporters.gguf_file import GgufFile, GgufTensor, GgufTensors, Settings
from skipstone.exporters.gguf_tokenizer import read_special_ids, read_tokenizer

__all__ = ["ARCHITECTURES", "open_gguf"]

Config: TypeAlias = dict[str, Any]
Order: TypeAlias = NDArray[np.int64]

# They stretch rotary positions, and become settings.
_FACTORS: Final = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


def open_gguf(path: Path) -> Checkpoint:
    """The checkpoint in one GGUF file: settings, tokenizer and weights; reads no weight.

    Raises: CheckpointError for a damaged file; UnsupportedModel, by name, for an architecture, setting, tensor or
    tokenizer that we do not know; ConfigError without the package gguf.
    """
    file = GgufFile.open(path)
    settings = Settings(file)
    if settings.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModel(f"{path}: GGUF architecture '{settings.architecture}' is not known; known are {known}")
    architecture = ARCHITECTURES[settings.architecture]
    config = architecture.describe(settings)
    settings.check_all_asked()
    special_ids = read_special_ids(file)
    return Checkpoint(
        path=path,
        source=str(path),
        config=config | special_ids,
        generation_config=special_ids,
        texts=read_tokenizer(file),
        tensors=GgufTensors(_tensors(file, architecture, config)),
    )


# Settings


def _decoder(settings: Settings, model_type: str, *, epsilon: str = "rms_norm_eps") -> Config:
    """What all decoders have; `epsilon` is the name of it in config.json."""
    hidden, num_heads = settings.size("embedding_length"), settings.size("attention.head_count")
    head_size = settings.size("attention.key_length", hidden // num_heads)
    num_kv_heads = settings.size("attention.head_count_kv", num_heads)
    settings.require("attention.value_length", (head_size,))
    settings.require("attention.causal", (True,))
    norm = "rms_epsilon" if epsilon.startswith("rms") else "epsilon"
    embedding, num_layers = settings.file.tensors.get("token_embd.weight"), settings.size("block_count")
    if embedding is None:
        raise CheckpointError(f"{settings.file.path}: has no tensor 'token_embd.weight': convert the checkpoint again")
    present = len({name.split(".")[1] for name in settings.file.tensors if name.startswith("blk.")})
    if present != num_layers:
        what = f"{settings.architecture}.block_count is {num_layers}, found tensors of {present} layers"
        raise CheckpointError(f"{settings.file.path}: {what}: fetch the file again")
    return {
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": settings.size("feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_size,
        "max_position_embeddings": settings.size("context_length"),
        epsilon: settings.required(f"attention.layer_norm_{norm}", float),
        "tie_word_embeddings": "output.weight" not in settings.file.tensors,
        "rope_parameters": _rope(settings, head_size),
    }


def _rope(settings: Settings, head_size: int) -> Config:
    rope: Config = {"rope_theta": settings.get("rope.freq_base", 10000.0)}
    turning = settings.size("rope.dimension_count", head_size)
    share = turning / head_size
    rope["partial_rotary_factor"] = share if int(share * head_size) == turning else math.nextafter(share, 1.0)
    scaling = _scaling(settings)
    if "rope_factors_long.weight" in settings.file.tensors:
        factors = {f"{kind}_factor": settings.numbers(f"rope_factors_{kind}.weight") for kind in ("short", "long")}
        magnitude = settings.get("rope.scaling.attn_factor", 1.0)
        return rope | scaling | {"rope_type": "longrope", "attention_factor": magnitude} | factors
    if "rope_freqs.weight" in settings.file.tensors:
        if scaling["rope_type"] != "default":
            raise UnsupportedModel(
                f"{settings.file.path}: rope_freqs.weight beside rope type '{scaling['rope_type']}' is not supported"
            )
        return rope | {"rope_type": "factors", "factors": settings.numbers("rope_freqs.weight")}
    return rope | scaling


def _scaling(settings: Settings) -> Config:
    factor = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 0.0)) or 1.0
    kind = settings.get("rope.scaling.type", "linear")
    original = {}
    if settings.raw("rope.scaling.original_context_length") is not None:
        original["original_max_position_embeddings"] = settings.size("rope.scaling.original_context_length")
    has_factors = "rope_factors_long.weight" in settings.file.tensors
    if kind == "none" or (kind == "linear" and factor == 1.0) or (kind == "longrope" and has_factors):
        return {"rope_type": "default"} | original
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModel(f"{settings.file.path}: rope scaling '{kind}' is not known; known are linear, yarn")
    settings.require("rope.scaling.yarn_ext_factor", (1.0,))
    names = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
    stated = {name: value for name, key in names.items() if (value := settings.get(key, 0.0))}
    grown = settings.get("rope.scaling.attn_factor", 1.0) * settings.get("rope.scaling.yarn_attn_factor", 1.0)
    magnitude = grown * (1 + 0.1 * math.log(max(factor, 1.0)))
    return {"rope_type": "yarn", "factor": factor, "attention_factor": magnitude} | original | stated


def _llama(settings: Settings) -> Config:
    """Llama, and those that llama.cpp calls so: Mistral has a window, Mixtral has experts."""
    config = _decoder(settings, "llama")
    window, num_experts = settings.get("attention.sliding_window", 0), settings.get("expert_count", 0)
    num_active = settings.get("expert_used_count", 0)
    config |= {"attention_bias": settings.has("attn_q.bias"), "mlp_bias": settings.has("ffn_up.bias")}
    if window:
        config |= {"model_type": "mistral", "sliding_window": window}
    if num_experts:
        config |= {"model_type": "mixtral", "num_local_experts": num_experts, "num_experts_per_tok": num_active}
    return config


def _qwen3(settings: Settings) -> Config:
    return _decoder(settings, "qwen3") | {"attention_bias": settings.has("attn_q.bias")}


def _experts(settings: Settings) -> Config:
    settings.require("expert_gating_func", (1,))
    settings.require("expert_weights_scale", (1.0, 0.0))
    return {"num_experts": settings.size("expert_count"), "num_experts_per_tok": settings.size("expert_used_count")}


def _qwen3_moe(settings: Settings) -> Config:
    config = _decoder(settings, "qwen3_moe") | {"attention_bias": settings.has("attn_q.bias")} | _experts(settings)
    normed = settings.get("expert_weights_norm", True)
    return config | {"moe_intermediate_size": settings.size("expert_feed_forward_length"), "norm_topk_prob": normed}


def _olmoe(settings: Settings) -> Config:
    config = _decoder(settings, "olmoe") | _experts(settings)
    clip = settings.get("attention.clamp_kqv", 0.0)
    config["intermediate_size"] = settings.get("expert_feed_forward_length", config["intermediate_size"])
    return config | {"norm_topk_prob": settings.get("expert_weights_norm", False), "clip_qkv": clip or None}


def _windows(settings: Settings, config: Config, *, period: int, otherwise: int) -> Config:
    """Gemma: every `period`th layer sees all tokens, the others those in the window."""
    window = settings.get("attention.sliding_window", otherwise)
    near = settings.raw("attention.sliding_window_pattern")
    if not isinstance(near, list):
        settings.require("attention.sliding_window_pattern", (period,))
        near = [(layer + 1) % period != 0 for layer in range(config["num_hidden_layers"])]
    kinds = ["sliding_attention" if window and is_near else "full_attention" for is_near in near]
    return {"sliding_window": window or None, "layer_types": kinds}


def _scores(config: Config, *, wide_layers: int) -> Config:
    """Gemma: scores are divided by the root of the head size; of E / H in the largest model, told by its layers."""
    wide = config["num_hidden_layers"] == wide_layers
    size = config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"]
    return {"query_pre_attn_scalar": size, "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(settings: Settings) -> Config:
    config = _decoder(settings, "gemma2")
    config |= _windows(settings, config, period=2, otherwise=4096) | _scores(config, wide_layers=46)
    for cap, otherwise in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        config[cap] = settings.get(cap, otherwise)
    return config


def _gemma3(settings: Settings) -> Config:
    config = _decoder(settings, "gemma3_text")
    config |= _windows(settings, config, period=6, otherwise=0) | _scores(config, wide_layers=62)
    near = {"rope_type": "default", "rope_theta": settings.get("rope.freq_base_swa", 10000.0)}
    config["rope_parameters"] = {"full_attention": config["rope_parameters"], "sliding_attention": near}
    config["final_logit_softcapping"] = settings.get("final_logit_softcapping", 0.0) or None
    return config


def _phi3(settings: Settings) -> Config:
    config = _decoder(settings, "phi3")
    original = config["rope_parameters"].get("original_max_position_embeddings", config["max_position_embeddings"])
    window = settings.get("attention.sliding_window", 0) or None
    return config | {"sliding_window": window, "original_max_position_embeddings": original}


def _smollm3(settings: Settings) -> Config:
    config = _decoder(settings, "smollm3") | {"attention_bias": settings.has("attn_q.bias")}
    config["no_rope_layers"] = [int((layer + 1) % 4 != 0) for layer in range(config["num_hidden_layers"])]
    return config | {"mlp_bias": settings.has("ffn_up.bias")}


def _granite(settings: Settings) -> Config:
    config = _decoder(settings, "granite")
    config |= {"attention_bias": settings.has("attn_q.bias"), "mlp_bias": settings.has("ffn_up.bias")}
    return config | {
        "attention_multiplier": settings.get("attention.scale", 0.0) or config["head_dim"] ** -0.5,
        "embedding_multiplier": settings.get("embedding_scale", 1.0),
        "residual_multiplier": settings.get("residual_scale", 1.0),
        "logits_scaling": settings.get("logit_scale", 1.0),
    }


def _stablelm(settings: Settings) -> Config:
    config = _decoder(settings, "stablelm", epsilon="layer_norm_eps")
    parallel = settings.get("use_parallel_residual", not settings.has("ffn_norm.weight"))
    config |= {"use_qkv_bias": settings.has("attn_q.bias"), "qk_layernorm": settings.has("attn_q_norm.weight")}
    return config | {"use_parallel_residual": parallel}


def _gpt_neox(settings: Settings) -> Config:
    config = _decoder(settings, "gpt_neox", epsilon="layer_norm_eps")
    return config | {"use_parallel_residual": settings.get("use_parallel_residual", True), "hidden_act": "gelu"}


def _gpt2(settings: Settings) -> Config:
    config = _decoder(settings, "gpt2", epsilon="layer_norm_epsilon")
    ours = {
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
    }
    return config | {key: config[ours[key]] for key in ours} | {"activation_function": "gelu_new"}


def _falcon(settings: Settings) -> Config:
    """Falcon; llama.cpp runs those with rotary positions, attention beside the FFN, and no bias."""
    config = _decoder(settings, "falcon", epsilon="layer_norm_epsilon")
    two_norms, num_kv_heads = settings.has("attn_norm_2.weight"), config["num_key_value_heads"]
    return config | {
        "num_kv_heads": num_kv_heads,
        "ffn_hidden_size": config["intermediate_size"],
        "multi_query": num_kv_heads == 1,
        "new_decoder_architecture": two_norms or num_kv_heads > 1,
        "num_ln_in_parallel_attn": 2 if two_norms else 1,
        "parallel_attn": True,
        "alibi": False,
        "bias": False,
    }


# Names, and the order of rows


def _layers(path: str = "model.layers", **names: str) -> dict[str, str]:
    """Their names of a layer's tensors by GGUF's, which get "blk." in front."""
    return {f"blk.{stem}": f"{path}.{{layer}}.{name}" for stem, name in names.items()}


_OUTER: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION: Final = _layers(
    attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj", attn_output="self_attn.o_proj"
)
_FFN: Final = _layers(ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
_NORMS: Final = _layers(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm")
_HEAD_NORMS: Final = _layers(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
_OUT_NORMS: Final = _layers(post_attention_norm="post_attention_layernorm", post_ffw_norm="post_feedforward_layernorm")
_GEMMA: Final = {
    **{**_OUTER, **_ATTENTION, **_FFN, **_OUT_NORMS},
    **_layers(attn_norm="input_layernorm", ffn_norm="pre_feedforward_layernorm"),
}
_EXPERTS: Final = _layers(
    ffn_gate_inp="mlp.gate",
    ffn_gate_exps="mlp.experts.{part}.gate_proj",
    ffn_up_exps="mlp.experts.{part}.up_proj",
    ffn_down_exps="mlp.experts.{part}.down_proj",
)
_MIXTRAL: Final = _layers(
    ffn_gate_inp="block_sparse_moe.gate",
    ffn_gate_exps="block_sparse_moe.experts.{part}.w1",
    ffn_up_exps="block_sparse_moe.experts.{part}.w3",
    ffn_down_exps="block_sparse_moe.experts.{part}.w2",
)
_LLAMA: Final = {**_OUTER, **_ATTENTION, **_FFN, **_NORMS}
_SPARSE: Final = {**_OUTER, **_ATTENTION, **_NORMS, **_HEAD_NORMS, **_EXPERTS}
_PHI3: Final = {
    **{**_OUTER, **_NORMS},
    **_layers(attn_qkv="self_attn.qkv_proj", attn_output="self_attn.o_proj"),
    **_layers(ffn_up="mlp.gate_up_proj", ffn_down="mlp.down_proj"),
}
_STABLELM: Final = _layers(
    attn_q_norm="self_attn.q_layernorm.norms.{part}", attn_k_norm="self_attn.k_layernorm.norms.{part}"
)
_NEOX: Final = {
    **{"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    **_layers("gpt_neox.layers", attn_norm="input_layernorm", ffn_norm="post_attention_layernorm"),
    **_layers("gpt_neox.layers", attn_qkv="attention.query_key_value", attn_output="attention.dense"),
    **_layers("gpt_neox.layers", ffn_up="mlp.dense_h_to_4h", ffn_down="mlp.dense_4h_to_h"),
}
_GPT2: Final = {
    **{"token_embd": "transformer.wte", "position_embd": "transformer.wpe"},
    **{"output_norm": "transformer.ln_f", "output": "lm_head"},
    **_layers("transformer.h", attn_norm="ln_1", attn_qkv="attn.c_attn", attn_output="attn.c_proj"),
    **_layers("transformer.h", ffn_norm="ln_2", ffn_up="mlp.c_fc", ffn_down="mlp.c_proj"),
}
_FALCON: Final = {
    **{"token_embd": "transformer.word_embeddings", "output_norm": "transformer.ln_f", "output": "lm_head"},
    **_layers("transformer.h", attn_norm="input_layernorm", attn_norm_2="ln_attn"),
    **_layers("transformer.h", attn_qkv="self_attention.query_key_value", attn_output="self_attention.dense"),
    **_layers("transformer.h", ffn_up="mlp.dense_h_to_4h", ffn_down="mlp.dense_4h_to_h"),
}
_TWO_NORMS: Final = {"blk.0.attn_norm_2.weight": _layers("transformer.h", attn_norm="ln_mlp")}

_QKV: Final = frozenset({"blk.attn_q", "blk.attn_k", "blk.attn_v"})
_LINEAR: Final = frozenset({*_ATTENTION, *_FFN})
_FUSED: Final = frozenset({"blk.attn_qkv", "blk.attn_output", "blk.ffn_up", "blk.ffn_down"})
_LAYER_NORMS: Final = frozenset({"output_norm", "blk.attn_norm", "blk.attn_norm_2", "blk.ffn_norm"})


def _side_by_side(heads: str) -> Callable[[Config, int], Order]:
    """Rotary pairs are neighbours in the file; ours are half a head apart. `heads` is the setting with their number."""

    def order(config: Config, num_rows: int) -> Order:
        num_heads, size = config[heads], config["head_dim"]
        if size % 2 or num_heads * size != num_rows:
            raise ValueError(f"{num_rows} rows are not {num_heads} heads of {size}, an even number of channels")
        return np.arange(num_rows).reshape(num_heads, 2, size // 2).swapaxes(1, 2).reshape(-1)

    return order


def _kinds_apart(config: Config, num_rows: int) -> Order:
    """All queries, then all keys, then all values in the file; ours take turns, a group of queries with its key."""
    num_heads, num_groups, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    if num_heads % num_groups or (num_heads + 2 * num_groups) * size != num_rows:
        raise ValueError(f"{num_rows} rows are not {num_heads} heads of {size} in {num_groups} groups")
    rows = np.arange(num_rows).reshape(num_groups, num_heads // num_groups + 2, size)
    return np.concatenate([rows[:, :-2].reshape(-1), rows[:, -2].reshape(-1), rows[:, -1].reshape(-1)])


_PAIRS: Final = {
    "blk.attn_q": _side_by_side("num_attention_heads"),
    "blk.attn_k": _side_by_side("num_key_value_heads"),
}
_GROUPS: Final = {"blk.attn_qkv": _kinds_apart}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """How the files of one architecture relate to checkpoints.

    `names` are theirs by GGUF's, and `beside` holds those that are others where a tensor is there. `biased` may have
    biases. `orders` are of rows, see GgufTensor. `norm_added` was added to the gains of norms.
    """

    describe: Callable[[Settings], Config]
    names: Mapping[str, str]
    beside: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    biased: frozenset[str] = frozenset()
    orders: Mapping[str, Callable[[Config, int], Order]] = field(default_factory=dict)
    norm_added: float = 0.0
    transposed: frozenset[str] = frozenset()


ARCHITECTURES: Final[Mapping[str, GgufArchitecture]] = {
    "llama": GgufArchitecture(describe=_llama, names=_LLAMA | _MIXTRAL, biased=_LINEAR, orders=_PAIRS),
    "smollm3": GgufArchitecture(describe=_smollm3, names=_LLAMA, biased=_LINEAR, orders=_PAIRS),
    "granite": GgufArchitecture(describe=_granite, names=_LLAMA, biased=_LINEAR, orders=_PAIRS),
    "qwen2": GgufArchitecture(describe=lambda settings: _decoder(settings, "qwen2"), names=_LLAMA, biased=_QKV),
    "qwen3": GgufArchitecture(describe=_qwen3, names=_LLAMA | _HEAD_NORMS, biased=frozenset(_ATTENTION)),
    "qwen3moe": GgufArchitecture(describe=_qwen3_moe, names=_SPARSE, biased=frozenset(_ATTENTION)),
    "olmoe": GgufArchitecture(describe=_olmoe, names=_SPARSE),
    "olmo2": GgufArchitecture(
        describe=lambda settings: _decoder(settings, "olmo2"),
        names={**_OUTER, **_ATTENTION, **_FFN, **_OUT_NORMS, **_HEAD_NORMS},
    ),
    "phi3": GgufArchitecture(describe=_phi3, names=_PHI3),
    "gemma2": GgufArchitecture(describe=_gemma2, names=_GEMMA, norm_added=1.0),
    "gemma3": GgufArchitecture(describe=_gemma3, names=_GEMMA | _HEAD_NORMS, norm_added=1.0),
    "stablelm": GgufArchitecture(describe=_stablelm, names=_LLAMA | _STABLELM, biased=_QKV | _LAYER_NORMS),
    "gptneox": GgufArchitecture(describe=_gpt_neox, names=_NEOX, biased=_FUSED | _LAYER_NORMS, orders=_GROUPS),
    "gpt2": GgufArchitecture(describe=_gpt2, names=_GPT2, biased=_FUSED | _LAYER_NORMS, transposed=_FUSED),
    "falcon": GgufArchitecture(describe=_falcon, names=_FALCON, beside=_TWO_NORMS, biased=_LAYER_NORMS, orders=_GROUPS),
}


def _tensors(file: GgufFile, architecture: GgufArchitecture, config: Config) -> dict[str, GgufTensor]:
    """The tensors of the file by the checkpoint's names. Raises: UnsupportedModel for one that has no such name."""
    order_of = functools.cache(lambda stem, num_rows: architecture.orders[stem](config, num_rows))
    names = dict(architecture.names)
    for sign, changed in architecture.beside.items():
        names |= changed if sign in file.tensors else {}
    tensors = {}
    for name, blocks in file.tensors.items():
        if name in _FACTORS:
            continue
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        layer, last, kind = match.groups() if match else (None, name, "weight")
        stem = last if layer is None else f"blk.{last}"
        if stem not in names or (kind == "bias" and stem not in architecture.biased):
            raise UnsupportedModel(f"{file.path}: tensor {name!r} is not known in this architecture")
        try:
            order = order_of(stem, blocks.shape[0]) if stem in architecture.orders else None
        except ValueError as error:
            raise CheckpointError(f"{file.path}: tensor {name!r}: {error}: fetch the file again") from error
        tensor = GgufTensor(
            blocks=blocks,
            order=order,
            added=architecture.norm_added if stem.endswith("_norm") else 0.0,
            transposed=stem in architecture.transposed and kind == "weight",
        )
        pattern = f"{names[stem]}.{kind}"
        for part in range(blocks.shape[0]) if "{part}" in pattern else (None,):
            tensors[pattern.format(layer=layer, part=part)] = replace(tensor, part=part)
    return tensors

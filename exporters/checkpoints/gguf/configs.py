"""What config.json would say of the model in a GGUF file, one function per architecture.

Sources: the converter and the loaders of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.gguf.rope import read_rope
from skipstone.exporters.checkpoints.gguf.settings import Settings

__all__ = ["CONFIGS"]

Config: TypeAlias = dict[str, Any]


def _decoder(settings: Settings, model_type: str, *, epsilon: str = "rms_norm_eps") -> Config:
    """What all decoders have; `epsilon` is the name of it in config.json."""
    hidden, num_heads = settings.size("embedding_length"), settings.size("attention.head_count")
    head_size = settings.size("attention.key_length", hidden // num_heads)
    num_kv_heads = settings.size("attention.head_count_kv", num_heads)
    settings.require("attention.value_length", (head_size,))
    settings.require("attention.causal", (True,))
    norm = "rms_epsilon" if epsilon.startswith("rms") else "epsilon"
    return {
        "model_type": model_type,
        "vocab_size": settings.stored("token_embd.weight").shape[0],
        "hidden_size": hidden,
        "intermediate_size": settings.size("feed_forward_length"),
        "num_hidden_layers": _num_layers(settings),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_size,
        "max_position_embeddings": settings.size("context_length"),
        epsilon: settings.required(f"attention.layer_norm_{norm}", float),
        "tie_word_embeddings": "output.weight" not in settings.file.tensors,
        "rope_parameters": read_rope(settings, head_size),
    }


def _num_layers(settings: Settings) -> int:
    """The number of layers. Raises: CheckpointError when the file holds the tensors of more or fewer."""
    num_layers = settings.size("block_count")
    present = len({name.split(".")[1] for name in settings.file.tensors if name.startswith("blk.")})
    if present != num_layers:
        what = f"{settings.architecture}.block_count is {num_layers}, found tensors of {present} layers"
        raise CheckpointError(f"{settings.file.path}: {what}: fetch the file again")
    return num_layers


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
    del config["head_dim"]  # it follows from the others, and Falcon's settings take none
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


CONFIGS: Final[Mapping[str, Callable[[Settings], Config]]] = {
    "llama": _llama,
    "smollm3": _smollm3,
    "granite": _granite,
    "qwen2": lambda settings: _decoder(settings, "qwen2"),
    "qwen3": _qwen3,
    "qwen3moe": _qwen3_moe,
    "olmoe": _olmoe,
    "olmo2": lambda settings: _decoder(settings, "olmo2"),
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "stablelm": _stablelm,
    "gptneox": _gpt_neox,
    "gpt2": _gpt2,
    "falcon": _falcon,
}

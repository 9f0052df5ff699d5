"""Families with LayerNorm and biases: StableLM, GPT-NeoX and Pythia, GPT-2, Falcon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipstone.exporters.families.family import LLAMA_NAMES, NO_NAME, Config, Family, names_of, stated

__all__ = ["GPT_FAMILIES"]

NORMS = "attention_norm ffn_norm final_norm"
STABLELM_NAMES = {
    **LLAMA_NAMES,
    "q_norm": "{prefix}layers.{layer}.self_attn.q_layernorm.norms.{head}.weight",
    "k_norm": "{prefix}layers.{layer}.self_attn.k_layernorm.norms.{head}.weight",
}
NEOX_NAMES = {
    **names_of("{prefix}{tensor}.{kind}", embedding="embed_in", final_norm="final_layer_norm"),
    **names_of("embed_out.{kind}", head=""),
    **names_of(
        "{prefix}layers.{layer}.{tensor}.{kind}",
        attention_norm="input_layernorm",
        ffn_norm="post_attention_layernorm",
        qkv="attention.query_key_value",
        o="attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    ),
}
GPT2_NAMES = {
    **names_of("{prefix}{tensor}.{kind}", embedding="wte", positions="wpe", final_norm="ln_f"),
    **names_of("lm_head.{kind}", head=""),
    **names_of(
        "{prefix}h.{layer}.{tensor}.{kind}",
        attention_norm="ln_1",
        ffn_norm="ln_2",
        qkv="attn.c_attn",
        o="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
}
FALCON_NAMES = {
    **names_of("{prefix}{tensor}.{kind}", embedding="word_embeddings", final_norm="ln_f"),
    **names_of("lm_head.{kind}", head=""),
    **names_of(
        "{prefix}h.{layer}.{tensor}.{kind}",
        attention_norm="input_layernorm",
        ffn_norm="post_attention_layernorm",
        qkv="self_attention.query_key_value",
        o="self_attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    ),
}


def _stablelm_names(config: Config) -> Mapping[str, str]:
    """Parallel blocks share one norm."""
    return {**STABLELM_NAMES, "ffn_norm": NO_NAME} if config.get("use_parallel_residual") else STABLELM_NAMES


def _falcon_names(config: Config) -> Mapping[str, str]:
    """Parallel blocks share one norm, in the newer layout they may have one each."""
    if not _is_parallel(config):
        return FALCON_NAMES
    if config.get("new_decoder_architecture") and config.get("num_ln_in_parallel_attn") in (None, 2):
        own = names_of("{prefix}h.{layer}.{tensor}.{kind}", attention_norm="ln_attn", ffn_norm="ln_mlp")
        return {**FALCON_NAMES, **own}
    return {**FALCON_NAMES, "ffn_norm": NO_NAME}


def _is_parallel(config: Config) -> bool:
    return bool(config.get("new_decoder_architecture") or config.get("parallel_attn", True))


def _falcon_kv_heads(config: Config) -> int | None:
    if config.get("new_decoder_architecture"):
        return config.get("num_kv_heads")
    return 1 if config.get("multi_query", True) else None


def _gpt2_scale(config: Config, layer: int) -> float:
    size = config["hidden_size"] // config["num_attention_heads"]
    scale = size**-0.5 if config.get("scale_attn_weights", True) else 1.0
    return scale / (layer + 1) if config.get("scale_attn_by_inverse_layer_idx") else scale


def _four_times_hidden(key: str) -> Any:
    return lambda config: config.get(key) or 4 * config["hidden_size"]


GPT_FAMILIES = (
    Family(
        model_type="stablelm",
        partial_rotary=True,
        names=_stablelm_names,
        defaults={"num_key_value_heads": 32, "partial_rotary_factor": 0.25},
        biases={NORMS: True, "q k v": stated("use_qkv_bias")},
        norm="layer",
        norm_epsilon=stated("layer_norm_eps", 1e-5),
        head_norm=lambda config: "layer" if config.get("qk_layernorm") else "none",
        parallel=stated("use_parallel_residual"),
    ),
    Family(
        model_type="gpt_neox",
        partial_rotary=True,
        names=NEOX_NAMES,
        prefixes=("gpt_neox.",),
        aliases={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
        defaults={"partial_rotary_factor": 0.25},
        biases={f"{NORMS} up down": True, "qkv o": stated("attention_bias", True)},
        num_kv_heads=None,
        norm="layer",
        norm_epsilon=stated("layer_norm_eps", 1e-5),
        activation=stated("hidden_act", "gelu"),
        parallel=stated("use_parallel_residual", True),
        grouped=True,
    ),
    Family(
        model_type="gpt2",
        names=GPT2_NAMES,
        prefixes=("transformer.", ""),
        aliases={
            "n_embd": "hidden_size",
            "n_head": "num_attention_heads",
            "n_layer": "num_hidden_layers",
            "n_positions": "max_position_embeddings",
        },
        defaults={"tie_word_embeddings": True},
        biases={f"{NORMS} qkv o up down": True},
        refused={"add_cross_attention": (False,)},
        learned_positions=True,
        num_kv_heads=None,
        head_size=None,
        intermediate_size=_four_times_hidden("n_inner"),
        norm="layer",
        norm_epsilon=stated("layer_norm_epsilon", 1e-5),
        activation=stated("activation_function", "gelu_new"),
        transposed=True,
        attention_scale=_gpt2_scale,
    ),
    Family(
        model_type="falcon",
        names=_falcon_names,
        prefixes=("transformer.",),
        aliases={"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"},
        defaults={"tie_word_embeddings": True, "max_position_embeddings": 2048},
        biases={NORMS: True, "qkv o up down": stated("bias")},
        refused={"alibi": (False, None)},
        num_kv_heads=_falcon_kv_heads,
        head_size=None,
        intermediate_size=_four_times_hidden("ffn_hidden_size"),
        norm="layer",
        norm_epsilon=stated("layer_norm_epsilon", 1e-5),
        activation=stated("activation", "gelu"),
        parallel=_is_parallel,
        grouped=True,
    ),
)

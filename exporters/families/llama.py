"""Families of the Llama block: RMS norms, gated FFN, rotary; they differ in a bias, a norm, a scale."""

from __future__ import annotations

from skipstone.exporters.families.family import LLAMA_NAMES, NO_NAME, Config, Family, names_of, stated

__all__ = ["LLAMA_FAMILIES", "QK_NORM_NAMES"]

QK_NORM_NAMES = names_of("{prefix}layers.{layer}.{tensor}.{kind}", q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")
OLMO2_NAMES = {
    **LLAMA_NAMES,
    **QK_NORM_NAMES,
    **names_of(
        "{prefix}layers.{layer}.{tensor}.{kind}",
        attention_out_norm="post_attention_layernorm",
        ffn_out_norm="post_feedforward_layernorm",
    ),
    "attention_norm": NO_NAME,
    "ffn_norm": NO_NAME,
}
PHI3_NAMES = {
    **LLAMA_NAMES,
    **names_of("{prefix}layers.{layer}.{tensor}.{kind}", qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"),
    **dict.fromkeys(("q", "k", "v", "gate", "up"), NO_NAME),
}


def _after_max_window_layers(config: Config) -> list[str]:
    """Qwen's rule: the first layers see everything."""
    first = config.get("max_window_layers", 28)
    return ["sliding_attention" if layer >= first else "full_attention" for layer in range(config["num_hidden_layers"])]


def _smollm3_without_rotary(config: Config) -> set[int]:
    interval = config.get("no_rope_layer_interval") or 4
    layers = range(config["num_hidden_layers"])
    turned = config.get("no_rope_layers") or [int((layer + 1) % interval != 0) for layer in layers]
    return {layer for layer, has_rotary in enumerate(turned) if not has_rotary}


def _smollm3_layer_types(config: Config) -> list[str]:
    """Where no layer types are stated, a window is for layers without rotary."""
    bare = _smollm3_without_rotary(config)
    return ["sliding_attention" if layer in bare else "full_attention" for layer in range(config["num_hidden_layers"])]


LLAMA_FAMILIES = (
    Family(
        model_type="llama",
        biases={"q k v o": stated("attention_bias"), "gate up down": stated("mlp_bias")},
        refused={"pretraining_tp": (1,)},
    ),
    Family(model_type="mistral", windowed=True),
    Family(
        model_type="qwen2",
        biases={"q k v": True},
        windowed=stated("use_sliding_window"),
        layer_types=_after_max_window_layers,
    ),
    Family(
        model_type="qwen3",
        names={**LLAMA_NAMES, **QK_NORM_NAMES},
        defaults={"head_dim": 128},
        biases={"q k v o": stated("attention_bias")},
        head_norm="shared",
        windowed=stated("use_sliding_window"),
        layer_types=_after_max_window_layers,
    ),
    Family(
        model_type="smollm3",
        defaults={"rope_theta": 2e6, "tie_word_embeddings": True, "num_key_value_heads": 4},
        biases={"q k v o": stated("attention_bias"), "gate up down": stated("mlp_bias")},
        windowed=stated("use_sliding_window"),
        layer_types=_smollm3_layer_types,
        without_rotary=_smollm3_without_rotary,
    ),
    Family(
        model_type="granite",
        biases={"q k v o": stated("attention_bias"), "gate up down": stated("mlp_bias")},
        embedding_scale=stated("embedding_multiplier", 1.0),
        residual_scale=stated("residual_multiplier", 1.0),
        attention_scale=lambda config, layer: float(config.get("attention_multiplier", 1.0)),
        logit_scale=lambda config: 1 / float(config.get("logits_scaling") or 1.0),
    ),
    Family(
        model_type="olmo2",
        names=OLMO2_NAMES,
        biases={"q k v o": stated("attention_bias")},
        head_norm="joint",
        norm_epsilon=stated("rms_norm_eps", 1e-5),
    ),
    Family(
        model_type="phi3",
        partial_rotary=True,
        names=PHI3_NAMES,
        defaults={"original_max_position_embeddings": 4096},
        norm_epsilon=stated("rms_norm_eps", 1e-5),
        windowed=True,
    ),
)

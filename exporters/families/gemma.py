"""Gemma: gains that count from 1, norms before and after each block, windows in most layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from skipstone.exporters.families.family import LLAMA_NAMES, Config, Family, names_of, stated
from skipstone.exporters.families.llama import QK_NORM_NAMES

__all__ = ["GEMMA_FAMILIES"]

GEMMA2_NAMES = {
    **LLAMA_NAMES,
    **names_of(
        "{prefix}layers.{layer}.{tensor}.{kind}",
        attention_out_norm="post_attention_layernorm",
        ffn_norm="pre_feedforward_layernorm",
        ffn_out_norm="post_feedforward_layernorm",
    ),
}
GEMMA_DEFAULTS = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True}
# On the hub a text_config states only what differs from these.
GEMMA3_DEFAULTS = GEMMA_DEFAULTS | {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
}


def _full_layer_every(interval: int) -> Callable[[Config], list[str]]:
    """Return what says which layers see everything, where config.json does not name the layers."""

    def layer_types(config: Config) -> list[str]:
        period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or interval
        numbers = range(1, config["num_hidden_layers"] + 1)
        return ["sliding_attention" if number % period else "full_attention" for number in numbers]

    return layer_types


GEMMA2 = Family(
    model_type="gemma2",
    defaults=GEMMA_DEFAULTS | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    names=GEMMA2_NAMES,
    biases={"q k v o": stated("attention_bias")},
    refused={"use_bidirectional_attention": (None, False)},
    windowed=True,
    layer_types=_full_layer_every(2),
    norm_offset=1.0,
    activation=stated("hidden_activation", "gelu_pytorch_tanh"),
    attention_scale=lambda config, layer: float(config["query_pre_attn_scalar"]) ** -0.5,
    attention_cap=stated("attn_logit_softcapping", None),
    logit_cap=stated("final_logit_softcapping", None),
    embedding_scale=lambda config: float(config["hidden_size"]) ** 0.5,
)
GEMMA3_TEXT = replace(
    GEMMA2,
    model_type="gemma3_text",
    defaults=GEMMA3_DEFAULTS,
    names={**GEMMA2_NAMES, **QK_NORM_NAMES},
    layer_types=_full_layer_every(6),
    rotary_by_type=True,
    head_norm="shared",
    attention_cap=None,  # config.json has the key, but the model does not use it
)
GEMMA3 = replace(
    GEMMA3_TEXT,
    model_type="gemma3",
    nested="text_config",
    prefixes=("language_model.model.", "model.language_model.", "model.", "language_model."),
    logit_cap=None,
)
GEMMA_FAMILIES = (GEMMA2, GEMMA3_TEXT, GEMMA3)

"""The families that we can export: one row each. A new family should be a new row.

A string where a row could say True or False is the config.json key that decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.architecture import Architecture
from skipstone.exporters.rotary import read_rotary
from skipstone.runtime.manifest import Dimensions

LLAMA_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "model.layers.{layer}.input_layernorm.weight",
    "ffn_norm": "model.layers.{layer}.post_attention_layernorm.weight",
    "q_norm": "model.layers.{layer}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{layer}.self_attn.k_norm.weight",
    **{
        f"{ours}{suffix}": f"model.layers.{{layer}}.{theirs}.{kind}"
        for ours, theirs in {
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }.items()
        for suffix, kind in (("", "weight"), ("_bias", "bias"))
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the checkpoints of one `model_type` differ from the plain Llama block."""

    model_type: str
    names: Mapping[str, str] = field(default_factory=lambda: LLAMA_NAMES)
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    ffn_bias: bool | str = False
    qk_norm: bool | str = False
    windowed: bool | str = False
    tied_by_default: bool = False


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family(model_type="llama", qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias"),
        Family(model_type="mistral", windowed=True),
        Family(model_type="qwen2", qkv_bias=True, windowed="use_sliding_window"),
        Family(
            model_type="qwen3",
            qkv_bias="attention_bias",
            output_bias="attention_bias",
            qk_norm=True,
            windowed="use_sliding_window",
        ),
    )
}

# Options that change the mathematics, with the only values for which the rows above are right.
SUPPORTED_VALUES: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1.0,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1.0),
    "quantization_config": (None,),
    "is_encoder_decoder": (False,),
}


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Return what config.json describes.

    Raises: UnsupportedModel for an unknown family or option, by name; CheckpointError for a missing or odd value.
    """
    family = _family(config)
    for option, supported in SUPPORTED_VALUES.items():
        if option in config and config[option] not in supported:
            known = ", ".join(str(value) for value in supported)
            raise UnsupportedModel(f"{family.model_type}: {option} = {config[option]!r} is not supported, only {known}")
    dimensions = _dimensions(config)
    return Architecture(
        family=family.model_type,
        dimensions=dimensions,
        context_length=_positive(config, "max_position_embeddings"),
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rotary=read_rotary(config),
        windows=_windows(family, config, dimensions.num_layers),
        tied_embedding=bool(config.get("tie_word_embeddings", family.tied_by_default)),
        qkv_bias=_decide(family.qkv_bias, config),
        output_bias=_decide(family.output_bias, config),
        ffn_bias=_decide(family.ffn_bias, config),
        qk_norm=_decide(family.qk_norm, config),
        names=dict(family.names),
    )


def _family(config: Mapping[str, Any]) -> Family:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModel(f"model_type {model_type!r} is not known; known are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def _decide(choice: bool | str, config: Mapping[str, Any]) -> bool:
    return bool(config.get(choice, False)) if isinstance(choice, str) else choice


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {key} must be a positive whole number, found {value!r}")
    return value


def _dimensions(config: Mapping[str, Any]) -> Dimensions:
    hidden_size, num_heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
    stated = {"num_key_value_heads": num_heads, "head_dim": hidden_size // num_heads} | {
        key: value for key, value in config.items() if value is not None
    }
    num_kv_heads = _positive(stated, "num_key_value_heads")
    if num_heads % num_kv_heads:
        raise CheckpointError(f"config.json: {num_heads} attention heads cannot share {num_kv_heads} key-value heads")
    head_size = _positive(stated, "head_dim")
    if head_size % 2:
        raise CheckpointError(f"config.json: head_dim must be even, because rotary turns pairs; found {head_size}")
    return Dimensions(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_positive(config, "intermediate_size"),
        num_layers=_positive(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
    )


def _windows(family: Family, config: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    if not _decide(family.windowed, config) or config.get("sliding_window") is None:
        return (None,) * num_layers
    window = _positive(config, "sliding_window")
    first_windowed = config.get("max_window_layers", 28) if isinstance(family.windowed, str) else 0
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first_windowed else "full_attention" for layer in range(num_layers)
    ]
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown or len(kinds) != num_layers:
        raise UnsupportedModel(
            f"{family.model_type}: layer_types {sorted(set(kinds))} for {num_layers} layers is not supported"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)

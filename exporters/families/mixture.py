"""Families whose FFN is a mixture of experts."""

from __future__ import annotations

from skipstone.exporters.families.experts import Experts
from skipstone.exporters.families.family import LLAMA_NAMES, Config, Family, names_of, stated
from skipstone.exporters.families.llama import QK_NORM_NAMES

__all__ = ["MIXTURE_FAMILIES"]

EXPERT_NAMES = names_of(
    "{prefix}layers.{layer}.mlp.{tensor}.{kind}",
    router="gate",
    expert_gate="experts.{expert}.gate_proj",
    expert_up="experts.{expert}.up_proj",
    expert_down="experts.{expert}.down_proj",
)
MIXTRAL_NAMES = names_of(
    "{prefix}layers.{layer}.block_sparse_moe.{tensor}.{kind}",
    router="gate",
    expert_gate="experts.{expert}.w1",
    expert_up="experts.{expert}.w3",
    expert_down="experts.{expert}.w2",
)


def _experts(
    config: Config,
    *,
    num_experts: int,
    width_key: str = "intermediate_size",
    normalized: bool,
    layers: tuple[bool, ...],
) -> Experts:
    return Experts(
        num_experts=config.get("num_local_experts") or config.get("num_experts") or num_experts,
        num_active=config["num_experts_per_tok"],
        intermediate_size=config[width_key],
        normalized=normalized,
        layers=layers,
    )


def _qwen3_experts(config: Config) -> Experts:
    step, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or []
    numbers = range(config["num_hidden_layers"])
    return _experts(
        config,
        num_experts=128,
        width_key="moe_intermediate_size",
        normalized=bool(config.get("norm_topk_prob")),
        layers=tuple(number not in dense and (number + 1) % step == 0 for number in numbers),
    )


def _olmoe_experts(config: Config) -> Experts:
    everywhere = (True,) * config["num_hidden_layers"]
    return _experts(config, num_experts=64, normalized=bool(config.get("norm_topk_prob")), layers=everywhere)


def _mixtral_experts(config: Config) -> Experts:
    return _experts(config, num_experts=8, normalized=True, layers=(True,) * config["num_hidden_layers"])


MIXTURE_FAMILIES = (
    Family(
        model_type="qwen3_moe",
        names={**LLAMA_NAMES, **QK_NORM_NAMES, **EXPERT_NAMES},
        defaults={"num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
        biases={"q k v o": stated("attention_bias")},
        head_norm="shared",
        windowed=stated("use_sliding_window"),
        experts=_qwen3_experts,
    ),
    Family(
        model_type="olmoe",
        names={**LLAMA_NAMES, **QK_NORM_NAMES, **EXPERT_NAMES},
        defaults={"num_experts_per_tok": 8},
        biases={"q k v o": stated("attention_bias")},
        head_norm="joint",
        norm_epsilon=stated("rms_norm_eps", 1e-5),
        qkv_clip=stated("clip_qkv", None),
        experts=_olmoe_experts,
    ),
    Family(
        model_type="mixtral",
        names={**LLAMA_NAMES, **MIXTRAL_NAMES},
        defaults={"rope_theta": 1e6, "num_experts_per_tok": 2, "num_key_value_heads": 8},
        norm_epsilon=stated("rms_norm_eps", 1e-5),
        windowed=True,
        experts=_mixtral_experts,
    ),
)

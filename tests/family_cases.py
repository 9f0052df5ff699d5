"""The checkpoints that every family must export: tiny random models, each with the shapes and options that go wrong."""

from __future__ import annotations

from family_case import FULL, SLIDING, TIED, Case, Settings, Spelling, factors, heads, longrope, rope, yarn
from family_cases_gemma import GEMMA3NS, GEMMAS, WRAPPERS
from family_cases_gpt import WITH_LAYER_NORM

LINE = 16
AFTER_LINE = {"original_max_position_embeddings": LINE}
LLAMA3 = rope(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
MIXED_LAYERS: Settings = {"sliding_window": 5, "layer_types": [FULL, SLIDING, FULL, SLIDING]}

LLAMAS = {
    "llama": Case("llama"),
    "llama, tied": Case("llama", TIED),
    "llama, another theta": Case("llama", rope(rope_theta=123.0), without=(rope(),)),
    "llama, attention bias": Case("llama", {"attention_bias": True}),
    "llama, mlp bias": Case("llama", {"mlp_bias": True, "tie_word_embeddings": True}),
    "llama, all biases": Case("llama", {"mlp_bias": True, "attention_bias": True}),
    "llama, another epsilon": Case("llama", {"rms_norm_eps": 0.05}, without=({"rms_norm_eps": 1e-6},)),
    "llama, one key-value head": Case("llama", {"num_key_value_heads": 1}),
    "llama, as many key-value heads": Case("llama", {"num_key_value_heads": 4}),
    "llama, one head": Case("llama", heads(1, 1, 52)),
    "llama, three heads of 18": Case("llama", heads(3, 3, 54) | {"head_dim": 18}),
    "llama, five heads share one": Case("llama", heads(5, 1, 60) | {"head_dim": 12, "tie_word_embeddings": True}),
    "llama, head size not stated": Case("llama", heads(2, 2, 52) | {"head_dim": None}),
    "llama, heads of 8": Case("llama", {"head_dim": 8}),
    "llama, heads of 20": Case("llama", {"head_dim": 20, "attention_bias": True}),
    "llama, heads of 24": Case("llama", {"head_dim": 24}),
    "llama, heads of 40": Case("llama", {"head_dim": 40}),
    "llama, heads of 80": Case("llama", {"head_dim": 80}),
    "llama, one layer": Case("llama", {"num_hidden_layers": 1}),
    "llama, two layers": Case("llama", {"num_hidden_layers": 2}),
    "mistral": Case("mistral", {"sliding_window": None}, without=({"sliding_window": 20},)),
    "mistral, window of 5": Case("mistral", {"sliding_window": 5}, without=({"sliding_window": 6},)),
    "mistral, window of 4": Case("mistral", {"sliding_window": 4}, without=({"sliding_window": 5},)),
    "mistral, window of 1": Case("mistral", {"sliding_window": 1}, without=({"sliding_window": 2},)),
    "mistral, wide window": Case("mistral", {"sliding_window": 200}),
    "mistral, three heads, tied": Case("mistral", heads(3, 1, 52) | TIED),
    "qwen2": Case("qwen2"),
    "qwen2, bfloat16": Case("qwen2", dtype="bfloat16"),
    "qwen2, tied": Case("qwen2", TIED),
    "qwen2, window from layer 2": Case(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
        without=({"max_window_layers": 1},),
    ),
    "qwen2, window switched off": Case("qwen2", {"use_sliding_window": False, "sliding_window": 5}),
    "qwen2, yarn in the old spelling": Case(
        "qwen2",
        yarn(),
        spelling=Spelling(
            {"rope_parameters": None, "rope_theta": 500.0}
            | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
        ),
    ),
    "qwen3": Case("qwen3"),
    "qwen3, tied, bias": Case("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, heads of 20": Case("qwen3", {"head_dim": 20, "rms_norm_eps": 0.05}, without=({"rms_norm_eps": 1e-6},)),
    "qwen3, mixed layers": Case("qwen3", MIXED_LAYERS | {"use_sliding_window": True}, without=({"sliding_window": 6},)),
}

ROPES = {
    "llama, linear rope": Case("llama", rope(rope_type="linear", factor=4.0), without=(rope(),)),
    "llama, llama3 rope": Case("llama", LLAMA3, without=(rope(rope_theta=500.0),)),
    "llama, llama3 rope, heads of 20": Case("llama", {"head_dim": 20} | LLAMA3, without=(rope(rope_theta=500.0),)),
    "llama, dynamic rope": Case("llama", rope(rope_type="dynamic", factor=4.0)),
    "llama, yarn": Case(
        "llama", yarn(), without=(rope(rope_theta=500.0), yarn(attention_factor=1.0), yarn(factor=2.0))
    ),
    "llama, yarn, factor not stated": Case("llama", yarn(factor=None), without=(yarn(factor=2.0),)),
    "llama, yarn, betas": Case(
        "llama", yarn(beta_fast=4.0, beta_slow=2.5), without=(yarn(beta_slow=2.5), yarn(beta_fast=4.0))
    ),
    "llama, yarn, not truncated": Case(
        "llama", yarn(beta_fast=4.0, beta_slow=1.5, truncate=False), without=(yarn(beta_fast=4.0, beta_slow=1.5),)
    ),
    "llama, yarn, two mscales": Case("llama", yarn(mscale=2.0, mscale_all_dim=0.5), without=(yarn(),)),
    "llama, yarn, one mscale": Case("llama", yarn(mscale=2.0), without=(yarn(mscale=2.0, mscale_all_dim=0.5),)),
    "llama, yarn, attention factor": Case("llama", yarn(attention_factor=0.7), without=(yarn(),)),
    "llama, longrope": Case(
        "llama",
        {"initializer_range": 0.1} | longrope(8, **AFTER_LINE),
        long_after=LINE,
        without=(longrope(8, short=2.0, **AFTER_LINE), longrope(8, long=4.0, **AFTER_LINE)),
    ),
}

PHIS = {
    "phi3": Case("phi3", heads(3, 1, 48)),
    "phi3, window of 5": Case("phi3", heads(4, 4, 48) | {"sliding_window": 5}, without=({"sliding_window": 6},)),
    "phi3, longrope of 18 channels of 24": Case(
        "phi3",
        heads(3, 3, 72) | AFTER_LINE | {"initializer_range": 0.1} | longrope(9, partial_rotary_factor=0.75),
        long_after=LINE,
        without=(
            longrope(9, short=2.0, partial_rotary_factor=0.75),
            longrope(9, long=4.0, partial_rotary_factor=0.75),
            longrope(9, attention_factor=1.0, partial_rotary_factor=0.75),
            {"original_max_position_embeddings": 64},
        ),
    ),
    "phi3, longrope with a window": Case(
        "phi3",
        heads(3, 1, 48) | AFTER_LINE | {"sliding_window": 5} | longrope(8, attention_factor=0.8),
        long_after=LINE,
        without=(longrope(8),),
    ),
    "phi-4-mini": Case(
        "phi3",
        heads(3, 1, 48) | AFTER_LINE | TIED | longrope(6, partial_rotary_factor=0.75),
        long_after=LINE,
        dtype="bfloat16",
    ),
    "phi3, old spelling": Case(
        "phi3",
        heads(3, 1, 48) | AFTER_LINE | longrope(6, partial_rotary_factor=0.75),
        long_after=LINE,
        spelling=Spelling(
            {"rope_parameters": None, "rope_theta": 500.0, "partial_rotary_factor": 0.75}
            | {"rope_scaling": {"type": "longrope", **factors(6)}}
        ),
    ),
}

BESIDE_LLAMA = {
    "smollm3": Case("smollm3", TIED, without=({"no_rope_layers": [1, 1, 1, 1]},)),
    "smollm3, windows": Case(
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [1, 0, 1, 0]},
        without=({"sliding_window": 6}, {"no_rope_layers": [0, 1, 1, 0]}, {"use_sliding_window": False}),
    ),
    "smollm3, three heads, biases": Case(
        "smollm3",
        heads(3, 3, 52) | {"attention_bias": True, "mlp_bias": True, "no_rope_layer_interval": 2},
        without=({"no_rope_layer_interval": 3},),
        dtype="bfloat16",
    ),
    "granite": Case(
        "granite",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.3, "logits_scaling": 2.5},
        without=(
            {"embedding_multiplier": 1.0},
            {"attention_multiplier": 0.25},
            {"residual_multiplier": 1.0},
            {"logits_scaling": 1.0},
        ),
    ),
    "granite, three heads, biases, tied": Case(
        "granite",
        heads(3, 1, 52)
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "attention_multiplier": 0.25}
        | {"embedding_multiplier": 3.0, "residual_multiplier": 0.5},
        dtype="bfloat16",
    ),
    "olmo2": Case("olmo2"),
    "olmo2, five heads share one, tied": Case(
        "olmo2",
        heads(5, 1, 60) | {"head_dim": 12, "tie_word_embeddings": True, "rms_norm_eps": 0.05},
        without=({"rms_norm_eps": 1e-6},),
    ),
    "olmo2, bias, yarn": Case("olmo2", {"attention_bias": True} | yarn(), without=(rope(rope_theta=500.0),)),
}


QWEN3_MOE: Settings = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
MIXTURES = {
    "qwen3_moe": Case(
        "qwen3_moe",
        QWEN3_MOE | {"norm_topk_prob": True},
        without=({"norm_topk_prob": False}, {"num_experts_per_tok": 3}),
    ),
    "qwen3_moe, dense layers between": Case(
        "qwen3_moe",
        heads(3, 1, 52)
        | QWEN3_MOE
        | {"decoder_sparse_step": 2, "mlp_only_layers": [3], "tie_word_embeddings": True, "attention_bias": True},
        without=({"norm_topk_prob": True},),
    ),
    "qwen3_moe, windows": Case(
        "qwen3_moe",
        QWEN3_MOE | {"use_sliding_window": True, "sliding_window": 5, "mlp_only_layers": [0, 2]},
        without=({"sliding_window": 6},),
        dtype="bfloat16",
    ),
    "qwen3_moe, old spelling": Case(
        "qwen3_moe", QWEN3_MOE, spelling=Spelling({"num_local_experts": None, "num_experts": 6})
    ),
    "olmoe": Case(
        "olmoe", {"hidden_size": 48, "num_experts": 6, "num_experts_per_tok": 2}, without=({"norm_topk_prob": True},)
    ),
    "olmoe, clipped, three heads, tied": Case(
        "olmoe",
        heads(3, 1, 48)
        | {"num_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": True, "clip_qkv": 0.5}
        | {"tie_word_embeddings": True, "attention_bias": True},
        without=({"norm_topk_prob": False}, {"clip_qkv": None}, {"num_experts_per_tok": 2}),
        dtype="bfloat16",
    ),
    "mixtral": Case("mixtral", {"num_local_experts": 4}, without=({"num_experts_per_tok": 3},)),
    "mixtral, window of 5": Case(
        "mixtral",
        heads(3, 1, 52) | {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 5},
        without=({"sliding_window": 6},),
    ),
    "mixtral, tied": Case(
        "mixtral", {"num_local_experts": 3, "tie_word_embeddings": True, "head_dim": 20}, dtype="bfloat16"
    ),
}

CASES: dict[str, Case] = (
    LLAMAS | ROPES | GEMMAS | WRAPPERS | GEMMA3NS | PHIS | BESIDE_LLAMA | WITH_LAYER_NORM | MIXTURES
)

"""The checkpoints that every family must export: tiny random models, each with the shapes and options that go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Settings = dict[str, object]


@dataclass(frozen=True)
class Spelling:
    """How a file that transformers did not write spells the same model.

    `config` changes config.json, None takes a key out; `wrapper` is what stands around it, as `text_config`.
    `names` are beginnings of tensor names and what is written in their place; `foreign` are tensors of other parts.
    `is_readable` is whether transformers can read it with the packages of the tests.
    """

    config: Settings = field(default_factory=dict)
    wrapper: Settings | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    is_readable: bool = True


@dataclass(frozen=True)
class Case:
    """A checkpoint to export: a random model of `model_type` with the settings `config`, on top of TINY.

    Each of `without` changes settings so that the logits of the same weights must change visibly.
    `exits` are those that the family takes. A text of more than `long_after` tokens is computed in another way, all of
    it. The first case of each family is also exported quantized.
    """

    model_type: str
    config: Settings = field(default_factory=dict)
    without: tuple[Settings, ...] = ()
    dtype: str = "float32"
    exits: tuple[str, ...] = ("none", "auto")
    long_after: int | None = None
    spelling: Spelling | None = None


def rope(**parameters: object) -> Settings:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


def yarn(**parameters: object) -> Settings:
    """Rope whose first pairs are kept, the last stretched, and some blended."""
    stated = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}
    return rope(**stated | parameters)


def factors(num_pairs: int, *, short: float = 1.0, long: float = 3.0) -> Settings:
    """Two lists of numbers that grow from pair to pair."""
    grown = [1 + pair / num_pairs for pair in range(num_pairs)]
    return {"short_factor": [short * x for x in grown], "long_factor": [long * x for x in grown]}


def longrope(num_pairs: int, *, short: float = 1.0, long: float = 3.0, **parameters: object) -> Settings:
    lists = factors(num_pairs, short=short, long=long)
    return rope(rope_type="longrope", rope_theta=500.0, **lists, **parameters)


def heads(num_heads: int, num_kv_heads: int, hidden_size: int) -> Settings:
    return {"num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads, "hidden_size": hidden_size}


def rope_by_type(full: Settings, sliding: Settings) -> Settings:
    return {"rope_parameters": {FULL: full, SLIDING: sliding}}


LINE = 16
TIED: Settings = {"tie_word_embeddings": True}
AFTER_LINE = {"original_max_position_embeddings": LINE}
SLIDING, FULL = "sliding_attention", "full_attention"
LINEAR: Settings = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
SLOW: Settings = {"rope_type": "default", "rope_theta": 30.0}
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

GEMMAS = {
    "gemma2": Case(
        "gemma2",
        heads(3, 1, 54)
        | {"head_dim": 20, "query_pre_attn_scalar": 7, "sliding_window": 5, "tie_word_embeddings": True}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0},
        without=(
            {"query_pre_attn_scalar": 20},
            {"sliding_window": 6},
            {"attn_logit_softcapping": None},
            {"final_logit_softcapping": None},
            {"layer_types": [FULL, SLIDING, FULL, SLIDING]},
        ),
    ),
    "gemma2, no caps": Case(
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 16}
        | {"sliding_window": 4, "layer_types": [SLIDING, SLIDING, SLIDING, FULL], "rms_norm_eps": 0.05},
        without=({"layer_types": [SLIDING, SLIDING, SLIDING, SLIDING]}, {"rms_norm_eps": 1e-6}),
    ),
    "gemma2, bias, bfloat16": Case(
        "gemma2", {"attention_bias": True, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}, dtype="bfloat16"
    ),
    "gemma3_text": Case(
        "gemma3_text",
        heads(3, 1, 54)
        | {"head_dim": 20, "query_pre_attn_scalar": 7, "sliding_window": 5, "tie_word_embeddings": True}
        | {"layer_types": [SLIDING, SLIDING, FULL, SLIDING], "final_logit_softcapping": 6.0}
        | rope_by_type(LINEAR, SLOW),
        without=(
            {"query_pre_attn_scalar": 20},
            {"sliding_window": 6},
            {"final_logit_softcapping": None},
            rope_by_type({"rope_theta": 500.0}, SLOW),
            rope_by_type(LINEAR, {}),
        ),
    ),
    "gemma3_text, old spelling": Case(
        "gemma3_text",
        {"query_pre_attn_scalar": 16, "sliding_window": 5, "layer_types": [SLIDING, FULL, SLIDING, FULL]}
        | rope_by_type(LINEAR, SLOW),
        spelling=Spelling(
            {"layer_types": None, "_sliding_window_pattern": None, "sliding_window_pattern": 2}
            | {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
            | {"rope_theta": 500.0, "rope_local_base_freq": 30.0}
        ),
    ),
    # transformers keeps this cap in the config, and does not apply it.
    "gemma3_text, a cap without effect": Case(
        "gemma3_text", {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 16, "attention_bias": True}
    ),
    "gemma3_text, bfloat16": Case("gemma3_text", {"query_pre_attn_scalar": 16}, dtype="bfloat16"),
}

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA3 = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "vision_config": VISION,
    "mm_tokens_per_image": 4,
    "image_token_index": 305,
}
GEMMA3_FOREIGN = ("vision_tower.vision_model.post_layernorm.weight", "multi_modal_projector.mm_soft_emb_norm.weight")
TAKEN_ANYWAY = (
    *("num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar", "hidden_activation"),
    *("sliding_window", "_sliding_window_pattern", "layer_types", "rope_parameters", "rms_norm_eps"),
    *("attn_logit_softcapping", "final_logit_softcapping", "tie_word_embeddings"),
)
WRAPPERS = {
    "gemma3": Case(
        "gemma3_text",
        {"query_pre_attn_scalar": 16, "tie_word_embeddings": True, "sliding_window": 5},
        spelling=Spelling(wrapper=GEMMA3, names={"model.": "language_model.model."}, foreign=GEMMA3_FOREIGN),
    ),
    "gemma3, untied": Case(
        "gemma3_text",
        {"query_pre_attn_scalar": 16},
        spelling=Spelling(
            wrapper=GEMMA3 | {"tie_word_embeddings": False},
            names={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
            foreign=GEMMA3_FOREIGN,
        ),
    ),
    # The released models leave out what transformers takes anyway: 8 heads, 4 for keys, of 256; windows of 4096.
    "gemma3, most settings not stated": Case(
        "gemma3_text",
        heads(8, 4, 56) | {"head_dim": 256, "tie_word_embeddings": True},
        spelling=Spelling(dict.fromkeys(TAKEN_ANYWAY), wrapper=GEMMA3, names={"model.": "language_model.model."}),
    ),
}

GEMMA3N: Settings = {
    "vocab_size_per_layer_input": 200,
    "hidden_size_per_layer_input": 12,
    "laurel_rank": 6,
    "sliding_window": 5,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "tie_word_embeddings": True,
}
GEMMA3NS = {
    "gemma3n_text": Case(
        "gemma3n_text",
        GEMMA3N
        | {"intermediate_size": [76, 60, 76, 60], "activation_sparsity_pattern": [0.9, 0.6, 0.0, 0.0]}
        | {"num_kv_shared_layers": 2, "altup_num_inputs": 3, "final_logit_softcapping": 6.0}
        | rope_by_type({"rope_theta": 500.0}, SLOW),
        without=(
            {"activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0]},
            {"sliding_window": 6},
            {"altup_active_idx": 1},
            {"altup_correct_scale": False},
            {"final_logit_softcapping": 30.0},
            rope_by_type({"rope_theta": 500.0}, {}),
            rope_by_type({}, SLOW),
        ),
        exits=("none",),
    ),
    "gemma3n_text, nothing shared": Case(
        "gemma3n_text",
        GEMMA3N
        | heads(3, 1, 54)
        | {"head_dim": 20, "num_kv_shared_layers": 0, "tie_word_embeddings": False}
        | {"altup_active_idx": 1, "altup_correct_scale": False},
        without=({"altup_active_idx": 0}, {"altup_correct_scale": True}),
        exits=("none",),
    ),
    "gemma3n": Case(
        "gemma3n_text",
        GEMMA3N | {"num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.9, 0.0, 0.9, 0.0]},
        exits=("none",),
        spelling=Spelling(
            wrapper={"model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"]},
            names={"model.": "model.language_model."},
            foreign=("model.vision_tower.timm_model.conv_stem.conv.weight", "model.embed_audio.embedding.weight"),
            is_readable=False,
        ),
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


def partial(share: float, **parameters: object) -> Settings:
    return rope(partial_rotary_factor=share, **parameters)


WITH_LAYER_NORM = {
    "stablelm": Case("stablelm", heads(3, 1, 48), without=(partial(1.0),)),
    "stablelm, parallel, bias": Case(
        "stablelm",
        heads(4, 2, 80) | {"use_parallel_residual": True, "use_qkv_bias": True} | partial(0.5, rope_theta=500.0),
        without=({"use_parallel_residual": False}, partial(0.5), partial(0.3, rope_theta=500.0)),
    ),
    "stablelm, norms of heads": Case(
        "stablelm",
        heads(3, 3, 60) | {"qk_layernorm": True, "layer_norm_eps": 0.05, "tie_word_embeddings": True} | partial(0.3),
        without=({"qk_layernorm": False}, {"layer_norm_eps": 1e-5}),
    ),
    "stablelm, old spelling": Case(
        "stablelm",
        heads(4, 4, 80) | partial(0.5, rope_theta=500.0),
        spelling=Spelling({"rope_parameters": None, "rope_theta": 500.0, "partial_rotary_factor": 0.5}),
        dtype="bfloat16",
    ),
    "gpt_neox": Case(
        "gpt_neox",
        heads(3, 3, 60) | partial(0.3),
        without=({"use_parallel_residual": False}, partial(0.5), partial(0.3, rope_theta=500.0)),
    ),
    "gpt_neox, sequential, no bias": Case(
        "gpt_neox",
        heads(2, 2, 52)
        | {"use_parallel_residual": False, "attention_bias": False, "layer_norm_eps": 0.05, "hidden_act": "relu"},
        without=({"use_parallel_residual": True}, {"layer_norm_eps": 1e-5}, {"hidden_act": "gelu"}),
    ),
    "gpt_neox, all channels turn, tied": Case("gpt_neox", heads(3, 3, 54) | TIED | partial(1.0), dtype="bfloat16"),
    "gpt_neox, old spelling": Case(
        "gpt_neox",
        heads(3, 3, 60) | partial(0.3, rope_theta=500.0),
        spelling=Spelling(
            {"rope_parameters": None, "rotary_pct": 0.3, "rotary_emb_base": 500},
            foreign=("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ),
    ),
    "gpt2": Case("gpt2", {"tie_word_embeddings": True, "n_inner": 76}),
    "gpt2, scores by layer": Case(
        "gpt2",
        heads(2, 2, 52) | {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 0.05},
        without=({"scale_attn_by_inverse_layer_idx": False}, {"layer_norm_epsilon": 1e-5}),
    ),
    "gpt2, three heads, scores not scaled": Case(
        "gpt2",
        heads(3, 3, 54) | {"scale_attn_weights": False, "activation_function": "relu", "n_inner": 76},
        without=({"scale_attn_weights": True}, {"activation_function": "gelu_new"}),
    ),
    "gpt2, exact gelu": Case("gpt2", {"activation_function": "gelu", "n_inner": 76}, dtype="bfloat16"),
    "gpt2, quick gelu": Case(
        "gpt2", {"activation_function": "quick_gelu", "n_inner": 76}, without=({"activation_function": "gelu_new"},)
    ),
    # As released: names of the body alone, and the causal mask among the tensors.
    "gpt2, names of the body": Case(
        "gpt2",
        {"tie_word_embeddings": True, "n_inner": 76},
        spelling=Spelling(names={"transformer.": ""}, foreign=("h.0.attn.bias",)),
    ),
    "falcon, one key-value head": Case(
        "falcon", heads(3, 3, 54) | {"ffn_hidden_size": 76, "tie_word_embeddings": True}
    ),
    "falcon, groups, two norms": Case(
        "falcon",
        heads(4, 4, 56)
        | {"num_kv_heads": 2, "new_decoder_architecture": True, "bias": True, "ffn_hidden_size": 76}
        | rope(rope_theta=500.0),
        without=(rope(),),
    ),
    "falcon, groups, one norm": Case(
        "falcon",
        heads(6, 6, 60)
        | {"num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}
        | {"layer_norm_epsilon": 0.05},
        without=({"layer_norm_epsilon": 1e-5},),
        dtype="bfloat16",
    ),
    "falcon, sequential": Case(
        "falcon",
        heads(5, 5, 60)
        | {"multi_query": False, "parallel_attn": False, "bias": True, "activation": "relu", "ffn_hidden_size": 76},
        without=({"parallel_attn": True}, {"activation": "gelu"}),
    ),
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

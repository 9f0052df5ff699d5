"""Gemma 2, 3 and 3n, alone and inside the files of multimodal models."""

from __future__ import annotations

from family_case import FULL, SLIDING, Case, Settings, Spelling, heads, rope_by_type

LINEAR: Settings = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
SLOW: Settings = {"rope_type": "default", "rope_theta": 30.0}

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

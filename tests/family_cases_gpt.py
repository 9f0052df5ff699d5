"""Families with LayerNorm and biases: StableLM, GPT-NeoX, GPT-2, Falcon."""

from __future__ import annotations

from family_case import TIED, Case, Spelling, heads, partial, rope

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

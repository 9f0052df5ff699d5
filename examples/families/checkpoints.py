"""A tiny random checkpoint of each family, with what is special to it: windows, experts, scales, shared caches."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

ALL = {"vocab_size": 259, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
ALL |= {
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.1,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 24}
WINDOWS = {"sliding_window": 32, **GROUPED}
MIXTURE = {"num_experts_per_tok": 2, "num_local_experts": 8, "num_experts": 8}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
GEMMA_3N = {"head_dim": 16, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
GEMMA_3N |= {"sliding_window": 32, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 259}
FAMILIES = {
    "Llama": ("llama", GROUPED),
    "Mistral": ("mistral", WINDOWS),
    "Qwen 2": ("qwen2", {"num_key_value_heads": 2}),
    "Qwen 3": ("qwen3", GROUPED),
    "Gemma 2": ("gemma2", {"query_pre_attn_scalar": 24, **WINDOWS}),
    "Gemma 3": ("gemma3_text", {"query_pre_attn_scalar": 24, "sliding_window_pattern": 2, **WINDOWS}),
    "Gemma 3n": ("gemma3n_text", GEMMA_3N),
    "Phi-3": ("phi3", {"rope_parameters": LONG | {"partial_rotary_factor": 0.75}}),
    "SmolLM3": ("smollm3", GROUPED),
    "Granite": ("granite", {"embedding_multiplier": 6.0, "residual_multiplier": 0.3, "logits_scaling": 4.0}),
    "OLMo 2": ("olmo2", {"num_key_value_heads": 2}),
    "StableLM": ("stablelm", {"num_key_value_heads": 2, "use_qkv_bias": True, "qk_layernorm": True}),
    "GPT-NeoX, Pythia": ("gpt_neox", {}),
    "GPT-2": ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 4, "n_positions": 256}),
    "Falcon": ("falcon", {}),
    "Qwen 3 MoE": ("qwen3_moe", {"moe_intermediate_size": 32, "norm_topk_prob": True, **MIXTURE, **GROUPED}),
    "OLMoE": ("olmoe", MIXTURE),
    "Mixtral": ("mixtral", MIXTURE | GROUPED),
}


def write_checkpoint(folder: Path, model_type: str, settings: dict[str, object]) -> None:
    """Save a model of transformers with random weights, and a tokenizer of bytes."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **ALL | settings)
    )
    model.save_pretrained(folder)
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))

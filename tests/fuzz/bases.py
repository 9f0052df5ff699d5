"""The files that are mutated: a tiny checkpoint, its GGUF file, an adapter, a bundle; made without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

import skipstone

__all__ = ["Bases", "make_bases"]

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS, VOCABULARY, CONTEXT = 32, 48, 4, 2, 2, 300, 64
TEMPLATE: Final = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
EXPORT: Final = "import sys, skipstone; skipstone.export(sys.argv[1], sys.argv[2], precision=sys.argv[3], exits='1')"
TUNE: Final = (
    "import sys; from skipstone.cli import main; sys.argv = ['skipstone', 'tune', 'costs', sys.argv[1]]; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """Folders and files, none of which is ever changed."""

    checkpoint: Path
    sharded: Path
    gguf: Path
    adapter: Path
    bundle: Path
    notes: Path


def make_bases(place: Path) -> Bases:
    """Make all of them in a folder. Cost: some seconds, for the processes that export and measure."""
    tensors = _tensors()
    checkpoint, sharded = place / "checkpoint", place / "sharded"
    for folder in (checkpoint, sharded):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(_config()))
        (folder / "tokenizer.json").write_text(_vocabulary().to_str())
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1], "temperature": 0.7}))
    save_file(tensors, checkpoint / "model.safetensors")
    _save_shards(tensors, sharded)
    # What an export imports is imported once, not by every child.
    skipstone.export(checkpoint, place / "warm", precision="fp32")
    bundle, cache = place / "bundle", place / "cache"
    environment = os.environ | {"SKIPSTONE_CACHE": str(cache)}
    command = [sys.executable, "-c", EXPORT, str(checkpoint), str(bundle), "fp32"]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    subprocess.run([sys.executable, "-c", TUNE, str(bundle)], check=True, env=environment, capture_output=True)
    return Bases(
        checkpoint=checkpoint,
        sharded=sharded,
        gguf=_write_gguf(tensors, place / "model.gguf"),
        adapter=_write_adapter(place / "adapter"),
        bundle=bundle,
        notes=cache / "profiles",
    )


def _config() -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _tensors() -> dict[str, NDArray[np.float32]]:
    random, size = np.random.default_rng(0), HIDDEN // HEADS
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes |= {"lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        shapes |= {f"{name}{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{name}self_attn.{kind}_proj.weight": (HIDDEN, HIDDEN) for kind in "qo"}
        shapes |= {f"{name}self_attn.{kind}_proj.weight": (KV_HEADS * size, HIDDEN) for kind in "kv"}
        shapes |= {f"{name}mlp.{kind}_proj.weight": (INNER, HIDDEN) for kind in ("gate", "up")}
        shapes |= {f"{name}mlp.down_proj.weight": (HIDDEN, INNER)}
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def _save_shards(tensors: dict[str, NDArray[np.float32]], folder: Path) -> None:
    names, files = sorted(tensors), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = {name: files[number % 2] for number, name in enumerate(names)}
    for file in files:
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _vocabulary() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    return backend


def _write_gguf(tensors: dict[str, NDArray[np.float32]], file: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    state = json.loads(_vocabulary().to_str())["model"]
    pieces = sorted(state["vocab"], key=state["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if number < 2 else 1 for number in range(len(pieces))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    names |= {"lm_head.weight": "output.weight"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{kind}_proj": f"attn_{kind}" for kind in "qkv"}
    parts |= {f"mlp.{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")}
    for layer in range(LAYERS):
        names |= {f"model.layers.{layer}.{part}.weight": f"blk.{layer}.{name}.weight" for part, name in parts.items()}
    for name, array in tensors.items():
        writer.add_tensor(names[name], array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_adapter(folder: Path) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    config |= {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random, tensors = np.random.default_rng(1), {}
    for layer in range(LAYERS):
        for kind, rows in (("q", HIDDEN), ("v", KV_HEADS * HIDDEN // HEADS)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{kind}_proj"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.1, (4, HIDDEN)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.1, (rows, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder

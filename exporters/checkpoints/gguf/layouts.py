"""How the tensors of a GGUF file relate to those of a checkpoint: names, orders of rows, gains of norms.

One row per architecture says what the converter of llama.cpp changed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.rope import FACTOR_TENSORS
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor

__all__ = ["LAYOUTS", "Layout"]

Config: TypeAlias = Mapping[str, Any]
Order: TypeAlias = NDArray[np.int64]


def _layers(path: str = "model.layers", **names: str) -> dict[str, str]:
    """Their names of a layer's tensors by GGUF's, which get "blk." in front."""
    return {f"blk.{stem}": f"{path}.{{layer}}.{name}" for stem, name in names.items()}


_OUTER: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION: Final = _layers(
    attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj", attn_output="self_attn.o_proj"
)
_FFN: Final = _layers(ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
_NORMS: Final = _layers(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm")
_HEAD_NORMS: Final = _layers(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
_OUT_NORMS: Final = _layers(post_attention_norm="post_attention_layernorm", post_ffw_norm="post_feedforward_layernorm")
_GEMMA: Final = {
    **{**_OUTER, **_ATTENTION, **_FFN, **_OUT_NORMS},
    **_layers(attn_norm="input_layernorm", ffn_norm="pre_feedforward_layernorm"),
}
_EXPERTS: Final = _layers(
    ffn_gate_inp="mlp.gate",
    ffn_gate_exps="mlp.experts.{part}.gate_proj",
    ffn_up_exps="mlp.experts.{part}.up_proj",
    ffn_down_exps="mlp.experts.{part}.down_proj",
)
_MIXTRAL: Final = _layers(
    ffn_gate_inp="block_sparse_moe.gate",
    ffn_gate_exps="block_sparse_moe.experts.{part}.w1",
    ffn_up_exps="block_sparse_moe.experts.{part}.w3",
    ffn_down_exps="block_sparse_moe.experts.{part}.w2",
)
_LLAMA: Final = {**_OUTER, **_ATTENTION, **_FFN, **_NORMS}
_SPARSE: Final = {**_OUTER, **_ATTENTION, **_NORMS, **_HEAD_NORMS, **_EXPERTS}
_PHI3: Final = {
    **{**_OUTER, **_NORMS},
    **_layers(attn_qkv="self_attn.qkv_proj", attn_output="self_attn.o_proj"),
    **_layers(ffn_up="mlp.gate_up_proj", ffn_down="mlp.down_proj"),
}
_STABLELM: Final = _layers(
    attn_q_norm="self_attn.q_layernorm.norms.{part}", attn_k_norm="self_attn.k_layernorm.norms.{part}"
)
_NEOX: Final = {
    **{"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    **_layers("gpt_neox.layers", attn_norm="input_layernorm", ffn_norm="post_attention_layernorm"),
    **_layers("gpt_neox.layers", attn_qkv="attention.query_key_value", attn_output="attention.dense"),
    **_layers("gpt_neox.layers", ffn_up="mlp.dense_h_to_4h", ffn_down="mlp.dense_4h_to_h"),
}
_GPT2: Final = {
    **{"token_embd": "transformer.wte", "position_embd": "transformer.wpe"},
    **{"output_norm": "transformer.ln_f", "output": "lm_head"},
    **_layers("transformer.h", attn_norm="ln_1", attn_qkv="attn.c_attn", attn_output="attn.c_proj"),
    **_layers("transformer.h", ffn_norm="ln_2", ffn_up="mlp.c_fc", ffn_down="mlp.c_proj"),
}
_FALCON: Final = {
    **{"token_embd": "transformer.word_embeddings", "output_norm": "transformer.ln_f", "output": "lm_head"},
    **_layers("transformer.h", attn_norm="input_layernorm", attn_norm_2="ln_attn"),
    **_layers("transformer.h", attn_qkv="self_attention.query_key_value", attn_output="self_attention.dense"),
    **_layers("transformer.h", ffn_up="mlp.dense_h_to_4h", ffn_down="mlp.dense_4h_to_h"),
}
_TWO_NORMS: Final = {"blk.0.attn_norm_2.weight": _layers("transformer.h", attn_norm="ln_mlp")}

_QKV: Final = frozenset({"blk.attn_q", "blk.attn_k", "blk.attn_v"})
_LINEAR: Final = frozenset({*_ATTENTION, *_FFN})
_FUSED: Final = frozenset({"blk.attn_qkv", "blk.attn_output", "blk.ffn_up", "blk.ffn_down"})
_LAYER_NORMS: Final = frozenset({"output_norm", "blk.attn_norm", "blk.attn_norm_2", "blk.ffn_norm"})


def _side_by_side(heads: str) -> Callable[[Config, int], Order]:
    """Rotary pairs are neighbours in the file; ours are half a head apart. `heads` is the setting with their number."""

    def order(config: Config, num_rows: int) -> Order:
        num_heads, size = config[heads], config["head_dim"]
        if size % 2 or num_heads * size != num_rows:
            raise ValueError(f"{num_rows} rows are not {num_heads} heads of {size}, an even number of channels")
        return np.arange(num_rows).reshape(num_heads, 2, size // 2).swapaxes(1, 2).reshape(-1)

    return order


def _kinds_apart(config: Config, num_rows: int) -> Order:
    """All queries, then all keys, then all values in the file; ours take turns, a group of queries with its key."""
    num_heads, num_groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // num_heads
    if num_heads % num_groups or (num_heads + 2 * num_groups) * size != num_rows:
        raise ValueError(f"{num_rows} rows are not {num_heads} heads of {size} in {num_groups} groups")
    rows = np.arange(num_rows).reshape(num_groups, num_heads // num_groups + 2, size)
    return np.concatenate([rows[:, :-2].reshape(-1), rows[:, -2].reshape(-1), rows[:, -1].reshape(-1)])


_PAIRS: Final = {
    "blk.attn_q": _side_by_side("num_attention_heads"),
    "blk.attn_k": _side_by_side("num_key_value_heads"),
}
_GROUPS: Final = {"blk.attn_qkv": _kinds_apart}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the converter made of the tensors of one architecture.

    `names` are the checkpoint's by GGUF's, and `beside` holds those that are others where a tensor is there. `biased`
    may have biases. `orders` are of rows, see GgufTensor. `norm_added` was added to the gains of norms. `transposed`
    matrices lie the other way round in the checkpoint.
    """

    names: Mapping[str, str]
    beside: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    biased: frozenset[str] = frozenset()
    orders: Mapping[str, Callable[[Config, int], Order]] = field(default_factory=dict)
    norm_added: float = 0.0
    transposed: frozenset[str] = frozenset()

    def tensors(self, file: GgufFile, config: Config) -> dict[str, GgufTensor]:
        """The tensors of the file by the checkpoint's names.

        Raises: UnsupportedModel for one that has no such name; CheckpointError for rows that are not those of heads.
        """
        order_of = functools.cache(lambda stem, num_rows: self.orders[stem](config, num_rows))
        names = dict(self.names)
        for sign, changed in self.beside.items():
            names |= changed if sign in file.tensors else {}
        tensors = {}
        for name, blocks in file.tensors.items():
            if name in FACTOR_TENSORS:
                continue
            match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
            layer, last, kind = match.groups() if match else (None, name, "weight")
            stem = last if layer is None else f"blk.{last}"
            if stem not in names or (kind == "bias" and stem not in self.biased):
                raise UnsupportedModel(f"{file.path}: tensor {name!r} is not known in this architecture")
            try:
                order = order_of(stem, blocks.shape[0]) if stem in self.orders else None
            except ValueError as error:
                raise CheckpointError(f"{file.path}: tensor {name!r}: {error}: fetch the file again") from error
            tensor = GgufTensor(
                blocks=blocks,
                order=order,
                added=self.norm_added if stem.endswith("_norm") else 0.0,
                transposed=stem in self.transposed and kind == "weight",
            )
            pattern = f"{names[stem]}.{kind}"
            for part in range(blocks.shape[0]) if "{part}" in pattern else (None,):
                tensors[pattern.format(layer=layer, part=part)] = replace(tensor, part=part)
        return tensors


LAYOUTS: Final[Mapping[str, Layout]] = {
    "llama": Layout(names=_LLAMA | _MIXTRAL, biased=_LINEAR, orders=_PAIRS),
    "smollm3": Layout(names=_LLAMA, biased=_LINEAR, orders=_PAIRS),
    "granite": Layout(names=_LLAMA, biased=_LINEAR, orders=_PAIRS),
    "qwen2": Layout(names=_LLAMA, biased=_QKV),
    "qwen3": Layout(names=_LLAMA | _HEAD_NORMS, biased=frozenset(_ATTENTION)),
    "qwen3moe": Layout(names=_SPARSE, biased=frozenset(_ATTENTION)),
    "olmoe": Layout(names=_SPARSE),
    "olmo2": Layout(names={**_OUTER, **_ATTENTION, **_FFN, **_OUT_NORMS, **_HEAD_NORMS}),
    "phi3": Layout(names=_PHI3),
    "gemma2": Layout(names=_GEMMA, norm_added=1.0),
    "gemma3": Layout(names=_GEMMA | _HEAD_NORMS, norm_added=1.0),
    "stablelm": Layout(names=_LLAMA | _STABLELM, biased=_QKV | _LAYER_NORMS),
    "gptneox": Layout(names=_NEOX, biased=_FUSED | _LAYER_NORMS, orders=_GROUPS),
    "gpt2": Layout(names=_GPT2, biased=_FUSED | _LAYER_NORMS, transposed=_FUSED),
    "falcon": Layout(names=_FALCON, beside=_TWO_NORMS, biased=_LAYER_NORMS, orders=_GROUPS),
}

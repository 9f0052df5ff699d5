"""One row of the table of families: how the checkpoints of one `model_type` differ from the plain Llama block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from skipstone.exporters.families.altup import AltUp
from skipstone.exporters.families.experts import Experts

__all__ = ["LLAMA_NAMES", "NO_NAME", "Config", "Family", "chosen", "names_of", "stated"]

Config: TypeAlias = Mapping[str, Any]
T = TypeVar("T")
# A value, or what to read it from.
Choice: TypeAlias = T | Callable[[Config], T]

NO_NAME: Final = ""  # takes a tensor out of the names of another family


def names_of(template: str, **tensors: str) -> dict[str, str]:
    """Return the names of weights and biases: `template` holds `{tensor}` and `{kind}`, weight or bias."""
    return {
        f"{ours}{suffix}": template.replace("{tensor}", theirs).replace("{kind}", kind)
        for ours, theirs in tensors.items()
        for suffix, kind in (("", "weight"), ("_bias", "bias"))
    }


LLAMA_NAMES: Final[Mapping[str, str]] = {
    **names_of("{prefix}{tensor}.{kind}", embedding="embed_tokens", final_norm="norm"),
    **names_of("{outer}{tensor}.{kind}", head="lm_head"),
    **names_of(
        "{prefix}layers.{layer}.{tensor}.{kind}",
        attention_norm="input_layernorm",
        ffn_norm="post_attention_layernorm",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.o_proj",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
    ),
}


def stated(key: str, default: Any = False) -> Callable[[Config], Any]:
    """Return what reads the value of a key of config.json, `default` where it is not stated or null."""

    def read(config: Config) -> Any:
        value = config.get(key)
        return default if value is None else value

    return read


# Where a Llama checkpoint says these.
NUM_KV_HEADS: Final = stated("num_key_value_heads", None)
HEAD_SIZE: Final = stated("head_dim", None)
INTERMEDIATE_SIZE: Final = stated("intermediate_size", None)
RMS_EPSILON: Final = stated("rms_norm_eps", 1e-6)
HIDDEN_ACT: Final = stated("hidden_act", "silu")


def chosen(choice: Choice[T], config: Config) -> T:
    """Return a value of a row, read from config.json where the row says so."""
    return choice(config) if callable(choice) else choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What config.json and the weights of one `model_type` mean. Defaults are those of a Llama checkpoint.

    `defaults` are what transformers takes for a key that config.json lacks; `aliases` are other spellings of keys.
    `nested` is the key under which a multimodal checkpoint describes its text model. `names` maps our tensors to
    theirs, with `{prefix}`, one of `prefixes`, and `{outer}`, what stands before its `model.`. `biases` maps our
    tensors, apart by spaces, to whether they have one. `partial_rotary` says whether config.json may turn a part of
    each head. `refused` are keys with the only values for which the row is right. The other fields are those of
    `Architecture`.
    """

    model_type: str
    defaults: Config = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    nested: str | None = None
    names: Choice[Mapping[str, str]] = field(default_factory=lambda: LLAMA_NAMES)
    prefixes: tuple[str, ...] = ("model.",)
    biases: Mapping[str, Choice[bool]] = field(default_factory=dict)
    refused: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    windowed: Choice[bool] = False
    layer_types: Callable[[Config], list[str]] | None = None
    without_rotary: Callable[[Config], set[int]] | None = None
    rotary_by_type: bool = False
    partial_rotary: bool = False
    learned_positions: bool = False
    num_kv_heads: Choice[int | None] = NUM_KV_HEADS
    head_size: Choice[int | None] = HEAD_SIZE
    intermediate_size: Choice[int | list[int] | None] = INTERMEDIATE_SIZE
    norm: str = "rms"
    norm_epsilon: Choice[float] = RMS_EPSILON
    norm_offset: float = 0.0
    head_norm: Choice[str] = "none"
    activation: Choice[str] = HIDDEN_ACT
    parallel: Choice[bool] = False
    grouped: Choice[bool] = False
    transposed: bool = False
    attention_scale: Callable[[Config, int], float] | None = None
    attention_cap: Choice[float | None] = None
    qkv_clip: Choice[float | None] = None
    embedding_scale: Choice[float] = 1.0
    residual_scale: Choice[float] = 1.0
    logit_scale: Choice[float] = 1.0
    logit_cap: Choice[float | None] = None
    experts: Callable[[Config], Experts] | None = None
    altup: Callable[[Config], AltUp] | None = None

"""What a family is tested with: a tiny random model, how a file spells it, and words for settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Settings = dict[str, object]
SLIDING, FULL = "sliding_attention", "full_attention"
TIED: Settings = {"tie_word_embeddings": True}


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


def partial(share: float, **parameters: object) -> Settings:
    return rope(partial_rotary_factor=share, **parameters)


def rope_by_type(full: Settings, sliding: Settings) -> Settings:
    return {"rope_parameters": {FULL: full, SLIDING: sliding}}

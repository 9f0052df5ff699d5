"""How the makers of a model recommend to choose its tokens: what generation_config.json says, by our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skipstone.errors import ConfigError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.runtime.sampling import SamplingOptions

__all__ = ["read_sampling", "sampling_remarks"]

_NAMES: Final[Mapping[str, str]] = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")},
    **{"typical_p": "typical", "top_h": "top_h", "no_repeat_ngram_size": "no_repeat_ngram"},
    **{name: name for name in ("presence_penalty", "frequency_penalty")},
}
_WHOLE: Final = ("top_k", "no_repeat_ngram")
_PENALTIES: Final = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram")

# Rules for single tokens or texts, which a bundle does not carry.
_UNKEPT: Final = (
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "stop_strings", "sequence_bias"),
    *("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids"),
)


def sampling_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say what the checkpoint recommends that is left out: values that cannot be, and rules that there are not here."""
    remarks, settings = [], checkpoint.generation_config
    if odd := read_sampling(checkpoint)[1]:
        remarks.append(f"recommended sampling: {', '.join(odd)} is no value that can be, and left out")
    if unkept := [name for name in _UNKEPT if settings.get(name) not in (None, [], {}, "")]:
        are = "is" if len(unkept) == 1 else "are"
        remarks.append(f"generation_config.json: {', '.join(unkept)} {are} left out: texts are made without such rules")
    return tuple(remarks)


def read_sampling(checkpoint: Checkpoint) -> tuple[dict[str, float], list[str]]:
    """Return what the checkpoint recommends, empty where it says nothing; and its values that are no such setting.

    `do_sample` false is greedy: temperature 0. Nothing stands for a value that is not stated, or cannot be.
    """
    settings = checkpoint.generation_config
    if not settings and checkpoint.config.get("do_sample"):  # as old checkpoints say it
        settings = checkpoint.config
    said, odd = {}, []
    for name, ours in _NAMES.items():
        if (value := settings.get(name)) is not None:
            if _is_in_range(ours, value):
                said[ours] = max(value, 0) if ours == "top_k" else value
            else:
                odd.append(f"{name} {value!r}")
    if settings.get("do_sample") is False or said.get("temperature") == 0:
        return {"temperature": 0.0} | {name: said[name] for name in _PENALTIES if name in said}, odd
    return said, odd


def _is_in_range(name: str, value: Any) -> bool:
    """Whether a value is a setting of the sampler; some write -1 for a top_k that is off."""
    kinds = (int,) if name in _WHOLE else (int, float)
    if type(value) not in kinds:
        return False
    if (name == "top_k" and value == -1) or (name == "temperature" and value == 0):
        return True
    try:
        SamplingOptions(**{"temperature": 1.0, name: value})
    except ConfigError:
        return False
    return True

"""The sampling that a GGUF file recommends, as a generation_config.json would say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from skipstone.exporters.checkpoints.gguf.file import GgufFile

__all__ = ["SAMPLING_KEYS", "read_sampling_keys"]

_PREFIX: Final = "general.sampling"
SAMPLING_KEYS: Final[Mapping[str, str]] = {
    **{"temp": "temperature", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"},
    **{"penalty_repeat": "repetition_penalty", "repetition_penalty": "repetition_penalty"},
}
"""The keys behind `general.sampling.` that are taken over, with their names in generation_config.json."""
# Samplers that there are none of here, with the value at which llama.cpp leaves them out.
_OFF: Final[Mapping[str, float]] = {"xtc_probability": 0.0, "mirostat": 0}


def read_sampling_keys(file: GgufFile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the file recommends, and a remark for what it recommends that is left out."""
    said: dict[str, Any] = {}
    for key, name in SAMPLING_KEYS.items():
        value = file.metadata.get(f"{_PREFIX}.{key}")
        if value is not None:
            said.setdefault(name, _short(value))
    if said.keys() - {"repetition_penalty"}:
        said = {"do_sample": True, **said}
    found = {key: file.metadata.get(f"{_PREFIX}.{key}") for key in _OFF}
    left_out = [f"{_PREFIX}.{key}" for key, value in found.items() if value is not None and value != _OFF[key]]
    remark = f"{', '.join(left_out)}: recommended, but there is no such sampler here: left out"
    return said, (remark,) if left_out else ()


def _short(value: Any) -> Any:
    """The number that was meant: 0.95 is stored as 0.949999988."""
    return float(f"{value:.6g}") if isinstance(value, float) else value

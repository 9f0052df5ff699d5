"""A checkpoint, opened and checked before any weight is read; it knows no format, `opening.py` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.exporters.checkpoints.tensors import TensorSource

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What Hugging Face ships: settings, tokenizer and weights; or the same out of a GGUF file.

    `source` is what the user named, `path` is the folder or file that it lies in, `config` is config.json,
    `generation_config` is generation_config.json or empty. `texts` are the files that a bundle takes over, by name,
    tokenizer.json always. `remarks` say where what is stored was followed, not what is said of it; `is_usual` whether
    transformers reads the same from the folder. `ends` are the tokens that a GGUF file says end a text, each with the
    key that says so; None where the two configs say it.
    """

    path: Path
    source: str
    config: dict[str, Any]
    generation_config: dict[str, Any]
    texts: Mapping[str, bytes]
    tensors: TensorSource
    remarks: tuple[str, ...] = ()
    is_usual: bool = True
    ends: Mapping[int, str] | None = None

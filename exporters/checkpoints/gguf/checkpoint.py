"""A GGUF file as a checkpoint: its settings as a config.json would have them, its tensors by Hugging Face's names."""

from __future__ import annotations

import json
from pathlib import Path

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.exporters.checkpoints.gguf.configs import CONFIGS
from skipstone.exporters.checkpoints.gguf.file import GgufFile
from skipstone.exporters.checkpoints.gguf.layouts import LAYOUTS
from skipstone.exporters.checkpoints.gguf.recommended import read_sampling_keys
from skipstone.exporters.checkpoints.gguf.roles import read_ends, read_special_ids
from skipstone.exporters.checkpoints.gguf.settings import Settings
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensors
from skipstone.exporters.checkpoints.gguf.tokenizer import read_tokenizer

__all__ = ["open_gguf"]


def open_gguf(path: Path) -> Checkpoint:
    """The checkpoint in one GGUF file: settings, tokenizer and weights; reads no weight.

    Raises: CheckpointError for a damaged file; UnsupportedModel, by name, for an architecture, setting, tensor or
    tokenizer that we do not know; ConfigError without the package gguf.
    """
    file = GgufFile.open(path)
    settings = Settings(file)
    architecture = settings.architecture
    if architecture not in CONFIGS:
        known = ", ".join(sorted(CONFIGS))
        raise UnsupportedModel(f"{path}: GGUF architecture '{architecture}' is not known; known are {known}")
    config = CONFIGS[architecture](settings)
    settings.check_all_asked()
    special_ids = read_special_ids(file)
    sampling, remarks = read_sampling_keys(file)
    generation_config = special_ids | sampling
    return Checkpoint(
        path=path,
        source=str(path),
        config=config | special_ids,
        generation_config=generation_config,
        texts=read_tokenizer(file) | {"generation_config.json": json.dumps(generation_config).encode()},
        tensors=GgufTensors(LAYOUTS[architecture].tensors(file, config)),
        remarks=remarks,
        ends=read_ends(file),
    )

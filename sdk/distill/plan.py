"""What a training of experts is asked to do, and whether it can: all that is checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skipstone.calibrate import Documents
from skipstone.distill.carved_layers import sparse_files
from skipstone.errors import ConfigError, OutputError
from skipstone.option_types import check_fields, checks_arguments
from skipstone.runtime.bundle import Bundle, Manifest
from skipstone.train import PartialRun, require_torch

__all__ = ["WINDOW", "ExpertTraining", "ExpertTrainingPlan", "plan_expert_training"]

WINDOW: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTraining:
    """How experts are trained.

    `active` is the share of active experts to train for; None is all levels of the bundle in turn. Each of the `steps`
    is along WINDOW tokens. `tokens` is how many the model writes itself where no text is given. The same `seed` gives
    the same bundle on the same machine. `threads` None is what torch and the device take by themselves.
    """

    active: float | None = None
    steps: int = 300
    tokens: int = 14_000
    learning_rate: float = 0.01
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.active is not None and not 0 < self.active < 1:
            raise ConfigError(f"the share of active experts must lie between 0 and 1, got {self.active:g}")
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        if self.tokens < 4 * WINDOW:
            raise ConfigError(f"tokens must be at least {4 * WINDOW}, got {self.tokens}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTrainingPlan:
    """A training that is checked, nothing computed yet; `state` is what an interrupted run with these settings left.

    `documents` are what is learned from; None is what the model writes.
    """

    bundle: Bundle
    training: ExpertTraining
    documents: Documents | None
    run: PartialRun
    state: Mapping[str, Any] | None
    replaces: bool

    @property
    def first_step(self) -> int:
        """The step from which the training goes on."""
        return 0 if self.state is None else int(self.state["step"])

    @property
    def output(self) -> Path:
        """The folder that will be written."""
        return self.run.output

    @property
    def memory_bytes(self) -> int:
        """How much memory the training takes, about: weights in float32 and as in the bundle, and what a step keeps."""
        return _memory_bytes(self.bundle.manifest)


def _memory_bytes(manifest: Manifest) -> int:
    d = manifest.dimensions
    attention = 2 * d.hidden_size * d.head_size * (d.num_heads + d.num_kv_heads)
    ffn = 3 * d.hidden_size * d.intermediate_size
    weights = d.num_layers * (attention + ffn) + d.vocab_size * d.hidden_size
    kept = d.num_layers * WINDOW * (12 * d.hidden_size + 8 * d.intermediate_size) + 4 * WINDOW * d.vocab_size
    return 2 * manifest.total_bytes + 4 * (weights + kept)


@checks_arguments
def plan_expert_training(
    bundle: str | Path,
    output: Path,
    *,
    text: str | Path | None = None,
    training: ExpertTraining | None = None,
    restart: bool = False,
) -> ExpertTrainingPlan:
    """Return the checked training of the experts of a bundle, which writes another bundle to `output`.

    `text` is a file of text, or of chats in JSON lines; without one the model writes what it learns from. `restart`
    forgets an unfinished run and replaces a finished bundle.
    Raises: ConfigError for settings, for a bundle without experts and without torch; OutputError when the place is
    taken or cannot be written; BundleError.
    """
    require_torch()
    training, opened = training or ExpertTraining(), Bundle.open(Path(bundle))
    sparse_files(opened)
    documents = None if text is None else Documents.read(text)
    run = PartialRun(output=output, settings=_settings(opened, training, documents))
    state = None if restart else run.find()
    if output.exists() and not restart:
        raise OutputError(f"{output} exists; choose another place with -o, or replace it with --restart")
    if output.exists() and output.samefile(opened.path):
        raise OutputError(f"{output} is the bundle that is read; choose another place with -o")
    run.require_place()
    return ExpertTrainingPlan(
        bundle=opened, training=training, documents=documents, run=run, state=state, replaces=restart
    )


def _settings(bundle: Bundle, training: ExpertTraining, documents: Documents | None) -> dict[str, object]:
    """Return what must be the same for a run to go on."""
    files = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    return {
        "active": training.active,
        "steps": training.steps,
        "tokens": training.tokens if documents is None else None,
        "learning_rate": training.learning_rate,
        "seed": training.seed,
        "text": None if documents is None else _digest(documents.items),
        "bundle": _digest(files),
    }


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

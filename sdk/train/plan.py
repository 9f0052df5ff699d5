"""What a training of exits is asked to do, and whether it can: all that is checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from skipstone.bundled import BUNDLED
from skipstone.errors import ConfigError, OutputError
from skipstone.exporters import ExportOptions, ExportPlan, plan_export
from skipstone.exporters.checkpoints import ADAPTERS_FILE, weights_identity
from skipstone.option_types import check_fields, checks_arguments
from skipstone.runtime.text import LEAST_TOKENS, WINDOW, Tokenizer, windows_of
from skipstone.train.head import require_torch
from skipstone.train.state import PartialRun

__all__ = ["DEFAULT_STEPS", "ExitTraining", "TrainingPlan", "plan_training", "windows_a_step"]

DEFAULT_STEPS = 300
RANK = 32
BATCH_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitTraining:
    """How the adapters are trained.

    `exits` is `auto` or layer numbers like `4,8`. `rank` None is 32, less where the hidden size is below 128. `steps`
    of some 1,024 tokens each, or `epochs` over the text; with neither, DEFAULT_STEPS. `held_out` is the share of the
    text, at its end, that is kept for the report.
    """

    exits: str = "auto"
    rank: int | None = None
    steps: int | None = None
    epochs: int | None = None
    learning_rate: float = 1e-3
    seed: int = 0
    held_out: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("steps and epochs say the same in two ways; give one of them")
        for name in ("rank", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate must be above 0, got {self.learning_rate}")
        if not 0 < self.held_out <= 0.5:
            raise ConfigError(f"the held-out share must lie above 0 and up to 0.5, got {self.held_out}")

    def rank_for(self, hidden_size: int) -> int:
        """Return the rank for a model. Raises: ConfigError when it is above the hidden size."""
        rank = self.rank or min(RANK, max(1, hidden_size // 4))
        if rank > hidden_size:
            raise ConfigError(f"rank {rank} is more than the hidden size of {hidden_size}; give less")
        return rank

    def steps_for(self, windows: SequenceOf[SequenceOf[int]]) -> int:
        """Return the number of steps on a text in windows."""
        if self.epochs is None:
            return self.steps or DEFAULT_STEPS
        return math.ceil(self.epochs * len(windows) / windows_a_step(windows))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A training that is checked, nothing computed yet; `state` is what an interrupted run with these settings left."""

    export: ExportPlan
    training: ExitTraining
    windows: list[list[int]]
    held_out: list[list[int]]
    run: PartialRun
    state: Mapping[str, Any] | None

    @property
    def rank(self) -> int:
        """The inner size of the adapters."""
        return self.training.rank_for(self.export.architecture.dimensions.hidden_size)

    @property
    def steps(self) -> int:
        """How many steps are made in all."""
        return self.training.steps_for(self.windows)

    @property
    def output(self) -> Path:
        """The file that will be written."""
        return self.run.output

    @property
    def first_step(self) -> int:
        """The step from which the training goes on."""
        return 0 if self.state is None else int(self.state["step"])

    @property
    def weights(self) -> str:
        """Which weights the adapters belong to."""
        return str(self.run.settings["weights"])

    @property
    def num_tokens(self) -> int:
        """How many tokens of the text are trained on."""
        return sum(map(len, self.windows))


@checks_arguments
def plan_training(
    checkpoint: str | Path,
    texts: SequenceOf[str],
    *,
    output: Path | None = None,
    training: ExitTraining | None = None,
    restart: bool = False,
) -> TrainingPlan:
    """Return the checked training of the exits of a checkpoint: a folder, a GGUF file or a hub id.

    `output` is by default ADAPTERS_FILE in that folder, where `export` looks for it. `restart` forgets an unfinished
    run and replaces a finished file.
    Raises: ConfigError for settings, for a short text and without torch; OutputError when the place is taken or cannot
    be written; CheckpointError, UnsupportedModel.
    """
    require_torch()
    training = training or ExitTraining()
    place = _place(checkpoint, output)
    export = _export(checkpoint, training)
    windows = _windows(export, texts)
    num_held_out = max(1, round(training.held_out * len(windows)))
    run = PartialRun(output=place, settings=_settings(export, training, windows, windows[:-num_held_out]))
    state = None if restart else run.find()
    if place.exists() and state is None and not restart:
        raise OutputError(f"{place} exists; choose another place with -o, or replace it with --restart")
    run.require_place()
    return TrainingPlan(
        export=export,
        training=training,
        windows=windows[:-num_held_out],
        held_out=windows[-num_held_out:],
        run=run,
        state=state,
    )


def _settings(
    export: ExportPlan, training: ExitTraining, windows: list[list[int]], kept: list[list[int]]
) -> dict[str, object]:
    """Return what must be the same for a run to go on: `windows` are the whole text, `kept` those to train on."""
    return {
        "exits": [*export.exits],
        "rank": training.rank_for(export.architecture.dimensions.hidden_size),
        "steps": training.steps_for(kept),
        "learning_rate": training.learning_rate,
        "seed": training.seed,
        "held_out": training.held_out,
        "text": hashlib.sha256(json.dumps(windows).encode()).hexdigest()[:16],
        "weights": weights_identity(export.checkpoint, export.architecture),
    }


def _export(checkpoint: str | Path, training: ExitTraining) -> ExportPlan:
    """Return the export whose stages give the hidden states."""
    if training.exits == "none":
        raise ConfigError("there is nothing to train without exits; give auto or layer numbers like 4,8")
    source = BUNDLED.get(str(checkpoint), checkpoint)
    export = plan_export(source, ExportOptions.of(precision="fp32", exits=training.exits, exit_adapters="none"))
    if not export.exits:
        raise ConfigError("this model has one layer, so there is no place for an exit")
    return export


def _place(checkpoint: str | Path, output: Path | None) -> Path:
    """Return where the adapters go."""
    if output is not None:
        if output.is_dir():
            raise OutputError(f"{output} is a folder; name a file, such as {output / ADAPTERS_FILE}")
        return output
    if str(checkpoint) in BUNDLED or not Path(checkpoint).is_dir():
        raise ConfigError(f"{checkpoint} is no folder of a checkpoint to put {ADAPTERS_FILE} into; name a file with -o")
    return Path(checkpoint) / ADAPTERS_FILE


def _windows(export: ExportPlan, texts: SequenceOf[str]) -> list[list[int]]:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(export.checkpoint.texts["tokenizer.json"]))
    a = export.architecture
    windows = windows_of(tokenizer, texts, min(WINDOW, a.context_length, a.switch_after or WINDOW))
    if (num_tokens := sum(map(len, windows))) < LEAST_TOKENS:
        raise ConfigError(
            f"the text has {num_tokens} tokens; training wants at least {LEAST_TOKENS}, better 50,000 or more: "
            "give more or longer files"
        )
    return windows


def windows_a_step(windows: SequenceOf[SequenceOf[int]]) -> int:
    """Return how many windows make a step of some BATCH_TOKENS tokens."""
    return min(len(windows), max(1, BATCH_TOKENS // max(map(len, windows))))

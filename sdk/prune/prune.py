"""Layers to leave out of a checkpoint: searched on a copy in int8 that is cut after each layer, by what text costs."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from skipstone.bundled import cache_folder
from skipstone.calibrate import Documents, Windows
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan, plan_stages
from skipstone.exporters.optimum import WrappedPlan
from skipstone.prune.reader import Loss, Reader
from skipstone.prune.search import Blocks, SearchPlan, search
from skipstone.quant import Recipe
from skipstone.runtime.engine import Model

__all__ = ["Pruning", "find_layers", "num_left_out"]

ROUGH_WINDOWS: Final = 1
CLOSE_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """The layers to leave out, counted from 0, and what that costs on text that was held back."""

    layers: tuple[int, ...]
    loss: Loss

    def __str__(self) -> str:
        loss = self.loss
        return (
            f"pruned layers {', '.join(map(str, self.layers))} (from 0): KL {loss.kl:.4f}, perplexity "
            f"{loss.perplexity_before:.2f} before, {loss.perplexity:.2f} after, on {loss.num_tokens} tokens held back"
        )


def num_left_out(amount: str, num_layers: int) -> int:
    """Return how many layers an amount such as `2layers` or `20%` means.

    Raises: ConfigError for other words, and where the first and last layer would not stay.
    """
    if (match := re.fullmatch(r"(\d+)\s*(layers?|%)", amount.strip())) is None:
        raise ConfigError(f"--prune takes an amount such as 2layers or 20%, not '{amount}'")
    number = int(match[1])
    count = max(1, round(number * num_layers / 100)) if match[2] == "%" else number
    if number == 0 or count > num_layers - 2:
        raise ConfigError(
            f"--prune {amount} of {num_layers} layers: at least 1 can be left out, and the first and the last stay"
        )
    return count


def find_layers(
    plan: ExportPlan | WrappedPlan,
    amount: str,
    documents: Documents,
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Pruning:
    """Return the layers that cost least, and what they cost; `plan` is that of the whole model.

    What an interrupted search has judged is not judged again. `on_progress` gets the share that is done.
    Raises: ConfigError for an amount that does not fit, too short a text, and a model that cannot be cut into layers.
    """
    if not isinstance(plan, ExportPlan):
        raise ConfigError("--via optimum takes the graph as it comes, so it cannot be pruned; leave one out")
    num_layers, alone = plan.architecture.dimensions.num_layers, _cut(plan)
    blocks = tuple(range(1, num_layers - 1))
    course = SearchPlan(blocks=blocks, count=num_left_out(amount, num_layers), seed=seed)
    windows = Windows.of(plan, documents, seed=seed)
    with tempfile.TemporaryDirectory(prefix="skipstone-") as folder:
        alone.write(Path(folder) / "bundle")
        model = Model.open(Path(folder) / "bundle")
        known = _Known(_known_file(model, windows), Reader(model, windows.calibrate.tolist()), course, on_progress)
        layers = search(course, known.losses)
        loss = Reader(model, windows.held_back.tolist()).loss(layers)
    on_progress(1.0)
    known.file.unlink(missing_ok=True)
    return Pruning(layers=layers, loss=loss)


def _cut(plan: ExportPlan) -> ExportPlan:
    """Return the plan of the model alone in int8, a stage for each layer."""
    if plan.architecture.altup is not None:
        raise ConfigError(f"{plan.architecture.family} cannot be pruned: its layers share streams; leave --prune out")
    num_layers = plan.architecture.dimensions.num_layers
    if num_layers < 3:
        raise ConfigError(f"the model has {num_layers} layers, of which the first and the last stay; leave --prune out")
    stages = plan_stages(num_layers, (), tuple(range(1, num_layers)))
    return replace(
        plan,
        recipe=Recipe.named("int8"),
        stages=stages,
        exits=(),
        draft_model=None,
        draft_head=None,
        exit_adapters=None,
        target="ort",
    )


def _known_file(model: Model, windows: Windows) -> Path:
    key = hashlib.sha256(model.manifest.files["weights.bin"].sha256.encode())
    key.update(windows.calibrate.tobytes() + version("skipstone").encode())
    return cache_folder() / "prunings" / f"{key.hexdigest()[:16]}.json"


class _Known:
    """Losses by choice, kept in a file as soon as they are known: a search that begins again runs through them."""

    def __init__(self, file: Path, reader: Reader, course: SearchPlan, on_progress: Callable[[float], None]) -> None:
        self.file, self._reader, self._total, self._on_progress = file, reader, course.num_judged, on_progress
        self._losses: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._done = 0

    def losses(self, choices: SequenceOf[Blocks], is_close: bool) -> list[float]:
        """Return the loss of each choice, judging those that are not known."""
        keys = [f"{'close' if is_close else 'rough'} {','.join(map(str, choice))}" for choice in choices]
        unknown = {key: choice for key, choice in zip(keys, choices, strict=True) if key not in self._losses}
        ordered = sorted(unknown, key=lambda key: unknown[key], reverse=True)
        num_windows = CLOSE_WINDOWS if is_close else ROUGH_WINDOWS
        for start in range(0, len(ordered), 4):
            some = ordered[start : start + 4]
            found = self._reader.losses([unknown[key] for key in some], num_windows=num_windows)
            self._losses |= dict(zip(some, found, strict=True))
            self._save()
            self._on_progress(min(1.0, (self._done + start + len(some)) / self._total))
        self._done += len(choices)
        return [self._losses[key] for key in keys]

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        other = self.file.with_suffix(".part")
        other.write_text(json.dumps(self._losses), encoding="utf-8")
        other.replace(self.file)

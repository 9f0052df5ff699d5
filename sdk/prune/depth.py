"""Layers, or single blocks of layers, to leave out: searched on a copy in int8 that is cut after each of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias

from skipstone.bundled import cache_folder
from skipstone.calibrate import Windows
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan, plan_stages
from skipstone.exporters.transforms import DropBlocks, DropLayers, SplitLayers, Transform, apply
from skipstone.prune.amount import Amount
from skipstone.prune.reader import Loss, Reader
from skipstone.prune.search import Blocks, SearchPlan, search
from skipstone.quant import Recipe
from skipstone.runtime.engine import Model

__all__ = ["find_blocks", "find_layers"]

Progress: TypeAlias = Callable[[float], None]
ROUGH_WINDOWS: Final = 1
CLOSE_WINDOWS: Final = 4


def find_layers(
    plan: ExportPlan, amount: Amount, windows: Windows, seed: int, on_progress: Progress
) -> tuple[Transform, Loss]:
    """Return what leaves out the layers that cost least, and the cost."""
    num_layers = _num_layers(plan)
    course = SearchPlan(blocks=tuple(range(1, num_layers - 1)), count=amount.count(num_layers), seed=seed)
    layers, loss = _searched(_cut(plan), windows, course, on_progress)
    return DropLayers(layers), loss


def find_blocks(
    plan: ExportPlan, amount: Amount, windows: Windows, seed: int, on_progress: Progress
) -> tuple[Transform, Loss]:
    """Return what leaves out the blocks that cost least, each the attention or the FFN of a layer, and the cost."""
    num_layers = _num_layers(plan)
    architecture, tensors, _ = apply([SplitLayers()], plan.architecture, plan.checkpoint.tensors)
    split = replace(plan, architecture=architecture, checkpoint=replace(plan.checkpoint, tensors=tensors))
    course = SearchPlan(blocks=tuple(range(2, 2 * num_layers - 2)), count=amount.count(num_layers), seed=seed)
    blocks, loss = _searched(_cut(split), windows, course, on_progress)
    attention, ffn = (tuple(block // 2 for block in blocks if block % 2 == half) for half in (0, 1))
    return DropBlocks(attention=attention, ffn=ffn), loss


def _num_layers(plan: ExportPlan) -> int:
    """Return the number of layers. Raises: ConfigError where none can be left out."""
    if plan.architecture.altup is not None:
        raise ConfigError(f"{plan.architecture.family} cannot be pruned: its layers share streams; leave --prune out")
    num_layers = plan.architecture.dimensions.num_layers
    if num_layers < 3:
        raise ConfigError(f"the model has {num_layers} layers, of which the first and the last stay; leave --prune out")
    return num_layers


def _cut(plan: ExportPlan) -> ExportPlan:
    """Return the plan of the model alone in int8, a stage for each layer."""
    num_layers = plan.architecture.dimensions.num_layers
    return replace(
        plan,
        recipe=Recipe.named("int8"),
        stages=plan_stages(num_layers, (), tuple(range(1, num_layers))),
        exits=(),
        draft_model=None,
        draft_head=None,
        exit_adapters=None,
        target="ort",
    )


def _searched(alone: ExportPlan, windows: Windows, course: SearchPlan, on_progress: Progress) -> tuple[Blocks, Loss]:
    with tempfile.TemporaryDirectory(prefix="skipstone-") as folder:
        alone.write(Path(folder) / "bundle")
        model = Model.open(Path(folder) / "bundle")
        known = _Known(_known_file(model, windows), Reader(model, windows.calibrate.tolist()), course, on_progress)
        blocks = search(course, known.losses)
        loss = Reader(model, windows.held_back.tolist()).loss(blocks)
    known.file.unlink(missing_ok=True)
    return blocks, loss


def _known_file(model: Model, windows: Windows) -> Path:
    key = hashlib.sha256(model.manifest.files["weights.bin"].sha256.encode())
    key.update(len(model.manifest.stages).to_bytes(4, "little"))
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

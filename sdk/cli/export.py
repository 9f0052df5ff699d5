"""skipstone export: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import typer
from rich.progress import DownloadColumn, TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import QuietOption
from skipstone.cli.terminal import notes, progress_bar

if TYPE_CHECKING:
    from skipstone.calibrate import Calibration, Documents
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan
    from skipstone.prune import Pruning
    from skipstone.runtime.bundle import Check

NAME = "export"
EXAMPLES = """\b
Examples:
  skipstone export ./SmolLM2-135M -o smollm
  skipstone export Qwen/Qwen3-0.6B -o qwen --precision int8 --exits auto
  skipstone export Qwen/Qwen3-4B -o cut --cuts each
  skipstone export Qwen/Qwen3-4B -o qwen --draft-model Qwen/Qwen3-0.6B
  skipstone export model-Q4_0.gguf -o from-gguf
  skipstone export ./SmolLM2-135M -o smollm --calibrate chats.jsonl
  skipstone export ./SmolLM2-135M -o drafter --prune 20%
  skipstone export ./base -o tuned --lora ./adapter --check"""


_CALIBRATED_A_MINUTE: Final = 30e6  # weights, on two cores


class PrecisionName(StrEnum):
    int4 = "int4"
    int4_fast = "int4-fast"
    int8 = "int8"
    fp32 = "fp32"


class GroupSize(StrEnum):
    small = "32"
    medium = "64"
    large = "128"


class Target(StrEnum):
    ort = "ort"
    plain = "plain"


class Via(StrEnum):
    optimum = "optimum"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFlags:
    """Which weights are read, how they are changed and stored."""

    panel: ClassVar[str] = "Weights"
    precision: Annotated[
        PrecisionName | None,
        typer.Option(
            "--precision",
            help="Type of the weights; int4 keeps the most sensitive ones at 8 bits. "
            "Default: int4, and the integers of a GGUF file or of MLX are kept.",
        ),
    ] = None
    group_size: Annotated[
        GroupSize | None, typer.Option("--group-size", help="Weights that share a scale; default: what measured best.")
    ] = None
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit of CHECKPOINT, a hub id.")
    ] = None
    lora: Annotated[
        Path | None, typer.Option("--lora", metavar="DIR", help="Adapter of PEFT or mlx-lm, merged into the weights.")
    ] = None
    ffn_width: Annotated[
        str | None,
        typer.Option(
            "--ffn-width", metavar="N|N,N,...", help="Channels to keep of each nested FFN (MatFormer, Gemma 3n)."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFlags:
    """What the weights are rounded by."""

    panel: ClassVar[str] = "Calibration"
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="FILE|auto",
            help="Round by what weights are multiplied by on a text: a text file, JSON lines of chats, or auto.",
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="4.5bits|100MB|8ms",
            help="What OUT may cost; each matrix gets the bits and blocks that lose least.",
        ),
    ] = None
    prune: Annotated[
        str | None,
        typer.Option(
            "--prune", metavar="2layers|20%", help="Leave out the layers that a text misses least; prints the cost."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFlags:
    """Where the model is cut, what lies between its stages and the logits, and whose operators all use."""

    panel: ClassVar[str] = "Stages"
    exits: Annotated[
        str, typer.Option("--exits", metavar="auto|none|4,8", help="Layers after which it may stop; auto: quarters.")
    ] = "none"
    cuts: Annotated[
        str,
        typer.Option(
            "--cuts", metavar="each|none|3,5", help="Layers after which stages end too, for --decode skip; each: all."
        ),
    ] = "none"
    exit_adapters: Annotated[
        str,
        typer.Option(
            "--exit-adapters", metavar="auto|none|FILE", help="Adapters of exits; auto: those that lie in CHECKPOINT."
        ),
    ] = "auto"
    draft_head: Annotated[
        str | None,
        typer.Option(
            "--draft-head", metavar="auto|K", help="Head over the first K tokens, for drafts; auto: a quarter."
        ),
    ] = None
    target: Annotated[
        Target, typer.Option("--target", help="Operators: onnxruntime's fused ones, or plain ONNX for other providers.")
    ] = Target.ort


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftModelFlags:
    """The small model that goes into the bundle too."""

    panel: ClassVar[str] = "Draft model"
    drafter: Annotated[
        str | None,
        typer.Option(
            "--draft-model",
            "--drafter",
            metavar="SMALL_CHECKPOINT",
            help="Smaller model that guesses for this one, put into OUT too.",
        ),
    ] = None
    drafter_precision: Annotated[
        PrecisionName | None,
        typer.Option(
            "--draft-model-precision", "--drafter-precision", help="Type of its weights; default: as --precision."
        ),
    ] = None


@unfold
def run(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="Folder, GGUF file, hub id such as Qwen/Qwen3-0.6B, or the word pebble."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")],
    weights: WeightFlags,
    calibration: CalibrationFlags,
    stages: StageFlags,
    draft_model: DraftModelFlags,
    via: Annotated[
        Via | None, typer.Option("--via", help="Let optimum export a family that has no table here.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with transformers first; needs it, and memory for the original.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it is a bundle.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a bundle of a checkpoint.

    The folder appears whole or not at all.
    """
    from skipstone.api import plan
    from skipstone.calibrate import AUTO, Budget, Calibration, Documents, within_budget
    from skipstone.check import ExportCheck, require_transformers
    from skipstone.exporters.transforms import DropLayers
    from skipstone.runtime.bundle import BundleWriter

    BundleWriter(output, force=force)  # a taken place is refused before a checkpoint is fetched
    if check:
        require_transformers()
    start = time.perf_counter()
    documents = None if calibration.calibrate is None else Documents.read(calibration.calibrate)
    budget = None if calibration.budget is None else Budget.parse(calibration.budget)
    keywords = _keywords(weights, stages, draft_model) | {"via": via.value if via else None}
    if (documents or budget) and keywords["precision"] is None:
        keywords["precision"] = "int4"  # rounding was asked for, so integers are not kept
    planned = plan(checkpoint, **keywords)
    if calibration.prune is not None:
        pruning = _prune(planned, calibration.prune, documents or Documents.read(AUTO), quiet=quiet)
        notes(quiet=quiet).print(str(pruning))
        planned = plan(checkpoint, **keywords, transforms=[DropLayers(pruning.layers)])
    for remark in planned.remarks:
        notes(quiet=quiet).print(remark)
    comparison = ExportCheck(planned) if check else None
    if documents is None:
        planned = planned if budget is None else within_budget(planned, budget)
        _write(planned, output, check=comparison, force=force, quiet=quiet)
    else:
        with Calibration(planned, documents, budget=budget) as work:
            planned = _solve(work, quiet=quiet)
            _write(planned, output, check=work.check(comparison), force=force, quiet=quiet)
            for remark in work.remarks:
                notes(quiet=quiet).print(remark)
    if comparison is not None:
        notes(quiet=quiet).print(comparison.verdict)
    seconds = time.perf_counter() - start
    notes(quiet=quiet).print(f"{output}: {planned.recipe.name}, {_size(output)}, {seconds:.1f} s")
    if advice := _advice(planned):
        notes(quiet=quiet).print(advice)


def _advice(planned: ExportPlan | WrappedPlan) -> str | None:
    """Return what would lose less than an export to few bits without a text; None for others, and small models."""
    from skipstone.exporters import ExportPlan

    if not isinstance(planned, ExportPlan) or planned.calibration is not None or planned.num_kept:
        return None
    minutes = planned.num_parameters / _CALIBRATED_A_MINUTE
    if not planned.recipe.is_coarse or minutes < 1:
        return None
    return f"rounded without a text; --calibrate auto loses less, and takes some {minutes:.0f} minutes"


def _keywords(*groups: WeightFlags | StageFlags | DraftModelFlags) -> dict[str, Any]:
    """Return the keywords of `plan` that the options mean."""
    values = {name: value for group in groups for name, value in asdict(group).items()}
    values = {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
    return values | {"group_size": int(values["group_size"]) if values["group_size"] else None}


def _prune(planned: ExportPlan | WrappedPlan, amount: str, documents: Documents, *, quiet: bool) -> Pruning:
    from skipstone.prune import find_layers

    with progress_bar("pruning", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        return find_layers(planned, amount, documents, on_progress=lambda share: progress.update(task, completed=share))


def _solve(calibration: Calibration, *, quiet: bool) -> ExportPlan:
    with progress_bar("calibrating", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        return calibration.solve(lambda share: progress.update(task, completed=share))


def _write(planned: ExportPlan | WrappedPlan, output: Path, *, check: Check | None, force: bool, quiet: bool) -> None:
    total, bytes_each = planned.work
    with progress_bar("exporting", total=total, count=DownloadColumn(), quiet=quiet) as (progress, task):
        planned.write(
            output,
            force=force,
            command=shlex.join(["skipstone", *sys.argv[1:]]),
            check=check,
            on_progress=lambda count: progress.advance(task, count * bytes_each),
        )


def _size(bundle: Path) -> str:
    from skipstone.runtime.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    size = f"{manifest.total_bytes / 1e6:.1f} MB"
    if manifest.draft_model:
        size += f" with a draft model of {manifest.draft_model_bytes / 1e6:.1f} MB"
    return size

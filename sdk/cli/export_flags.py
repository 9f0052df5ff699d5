"""The options of `skipstone export`, in the groups of its help text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from skipstone.cli.options import CacheTypeName

__all__ = ["CalibrationFlags", "DraftModelFlags", "StageFlags", "Via", "WeightFlags", "plan_keywords"]


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
    cuda = "cuda"
    android_cpu = "android-cpu"
    xnnpack = "xnnpack"
    nnapi = "nnapi"
    coreml = "coreml"
    qnn = "qnn"


class Prefill(StrEnum):
    int8 = "int8"


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
            "Default: int4, int8 below 400 M weights; integers of a GGUF file or of MLX are kept.",
        ),
    ] = None
    group_size: Annotated[
        GroupSize | None, typer.Option("--group-size", help="Weights that share a scale; default: what measured best.")
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="FILE|BUNDLE", help="Bits, blocks and more by a recipe in JSON, or by that of a bundle."
        ),
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
    """What weights, and keys and values in the cache, are rounded by, and what a text shows of them."""

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
            "--prune",
            metavar="2layers|20%|blocks:4|width:25%",
            help="Leave out layers, single blocks or FFN channels that a text misses least; prints the cost.",
        ),
    ] = None
    experts: Annotated[
        str | None,
        typer.Option(
            "--experts",
            metavar="auto|N",
            help="Carve each FFN into N experts, of which tokens can do with some; prints the errors.",
        ),
    ] = None
    active: Annotated[
        float | None,
        typer.Option("--active", metavar="SHARE", help="Share of the experts that is active by default: 0.5."),
    ] = None
    distill: Annotated[
        bool,
        typer.Option("--distill", help="Fit stand-ins for the experts that are left out; prints the KL before, after."),
    ] = False
    cache: Annotated[
        CacheTypeName,
        typer.Option("--cache", help="Type of the cache that texts have by default; int8 takes a quarter of fp32."),
    ] = CacheTypeName.fp32


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
    prefill: Annotated[
        Prefill | None,
        typer.Option("--prefill", help="Add graphs that read prompts in integers: a byte a weight more."),
    ] = None
    target: Annotated[
        Target, typer.Option("--target", help="What the graphs are for; docs/targets.md says what each provider takes.")
    ] = Target.ort
    buckets: Annotated[
        str | None,
        typer.Option(
            "--buckets",
            metavar="ROWSxCONTEXTS",
            help="Sizes of the graphs of a target of fixed shapes, like 1,4,16x512,2048.",
        ),
    ] = None


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


def plan_keywords(*groups: WeightFlags | StageFlags | DraftModelFlags) -> dict[str, Any]:
    """Return the keywords of `plan` that the options mean."""
    values = {name: value for group in groups for name, value in asdict(group).items()}
    values = {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
    return values | {"group_size": int(values["group_size"]) if values["group_size"] else None}

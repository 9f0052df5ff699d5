"""skipstone export: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skipstone.cli.command import unfold
from skipstone.cli.export_flags import CalibrationFlags, DraftModelFlags, StageFlags, Via, WeightFlags, plan_keywords
from skipstone.cli.export_lines import ExportLines
from skipstone.cli.options import QuietOption
from skipstone.cli.terminal import notes

NAME = "export"
EXAMPLES = """\b
Examples:
  skipstone export ./SmolLM2-135M -o smollm
  skipstone export Qwen/Qwen3-0.6B -o qwen --precision int8 --exits auto
  skipstone export Qwen/Qwen3-4B -o cut --cuts each
  skipstone export Qwen/Qwen3-4B -o qwen --draft-model Qwen/Qwen3-0.6B
  skipstone export model-Q4_0.gguf -o from-gguf
  skipstone export ./SmolLM2-135M -o smollm --calibrate chats.jsonl
  skipstone export ./SmolLM2-135M -o smollm --recipe recipe.json
  skipstone export ./SmolLM2-135M -o drafter --prune 20%
  skipstone export ./SmolLM2-135M -o sparse --experts auto
  skipstone export ./base -o tuned --lora ./adapter --check
  skipstone export ./SmolLM2-135M -o signed --sign key.pem"""


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
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Sign the bundle with this Ed25519 key, a PEM file; needs [sign]."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Make a bundle of a checkpoint.

    The folder appears whole or not at all.
    """
    from skipstone.export_job import ExportJob

    start = time.perf_counter()
    job = ExportJob(
        checkpoint=checkpoint,
        output=output,
        options=plan_keywords(weights, stages, draft_model) | {"via": via.value if via else None},  # type: ignore[arg-type]
        check=check,
        force=force,
        sign=sign,
        **asdict(calibration) | {"cache": calibration.cache.value},
    )
    planned = job.run(ExportLines(quiet=quiet), command=shlex.join(["skipstone", *sys.argv[1:]]))
    seconds = time.perf_counter() - start
    notes(quiet=quiet).print(f"{output}: {planned.recipe.name}, {_size(output)}, {seconds:.1f} s")
    if line := job.advice(planned):
        notes(quiet=quiet).print(line)


def _size(bundle: Path) -> str:
    from skipstone.runtime.bundle import read_manifest

    manifest = read_manifest(bundle)
    size = f"{manifest.total_bytes / 1e6:.1f} MB"
    if manifest.draft_model:
        size += f" with a draft model of {manifest.draft_model_bytes / 1e6:.1f} MB"
    return size

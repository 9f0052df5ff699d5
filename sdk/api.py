"""The two verbs: load a bundle, export a checkpoint.

What only exporting needs is imported when exporting: a running model does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.pebble import BUNDLED, bundled_bundle
from skipstone.quant import Recipe
from skipstone.runtime.bundle import BundleWriter
from skipstone.runtime.model import Model

if TYPE_CHECKING:
    from skipstone.exporters.export import ExportPlan

__all__ = ["Precision", "export", "load", "plan", "resolve"]

Precision = Literal["int4", "int4-fast", "int8", "fp32"]


def load(bundle: str | Path, *, device: str = "cpu", threads: int | None = None) -> LanguageModel:
    """Return the model in a bundle folder, or the bundled one when `bundle` is the word `pebble`.

    Raises: BundleError, DeviceError.
    """
    return LanguageModel(Model.open(resolve(bundle), device=device, threads=threads))


def resolve(bundle: str | Path) -> Path:
    """Return the folder of a bundle given as a path or as the name of a bundled model."""
    return bundled_bundle(str(bundle)) if str(bundle) in BUNDLED else Path(bundle)


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    precision: Precision = "int4",
    group_size: int | None = None,
    exits: str = "none",
    revision: str | None = None,
    force: bool = False,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
) -> Path:
    """Write the checkpoint (a folder or a hub id) as a bundle to the folder `output`, and return that folder.

    The folder appears whole or not at all. `group_size` is the weights per scale (32, 64 or 128), `exits` is `none`,
    `auto` or layer numbers like `4,8`. Raises: CheckpointError, UnsupportedModel, ConfigError, OutputError.
    """
    from skipstone.exporters.export import write_bundle

    BundleWriter(Path(output), force=force)  # a taken place is refused before a checkpoint is fetched
    chosen = plan(checkpoint, precision=precision, group_size=group_size, exits=exits, revision=revision)
    write_bundle(chosen, Path(output), force=force, on_progress=on_progress)
    return Path(output)


def plan(
    checkpoint: str | Path,
    *,
    precision: Precision = "int4",
    group_size: int | None = None,
    exits: str = "none",
    revision: str | None = None,
) -> ExportPlan:
    """Return what `export` would do, checked as far as the headers tell; no weight is read."""
    from skipstone.exporters.export import plan_export

    try:
        recipe = Recipe.named(precision, group_size=group_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    source = BUNDLED.get(str(checkpoint), checkpoint)
    return plan_export(source, recipe, exits=exits, revision=revision)

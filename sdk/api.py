"""The two verbs: load a bundle, export a checkpoint.

What only exporting needs is imported when exporting: a running model does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipstone.bundled import BUNDLED, bundled_bundle, cache_folder
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.quant import Recipe
from skipstone.runtime.bundle import BundleWriter
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.from_text import SuffixMemory

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["Precision", "export", "load", "plan", "resolve", "write"]

Precision = Literal["int4", "int4-fast", "int8", "fp32"]


def load(
    bundle: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    suffix_memory: str | Path | None = None,
    draft_model: str | Path | None = None,
    drafter: str | Path | None = None,
) -> LanguageModel:
    """Return the model in a bundle folder, or the bundled one when `bundle` is the word `pebble`.

    `suffix_memory` is a file in which the suffix drafter keeps what was written, up to 65,536 tokens, and finds
    it in later processes; without one it remembers within this object. `draft_model` is a smaller bundle that
    guesses for this one, in place of the draft model inside; `drafter` is its old name.
    Raises: BundleError, ConfigError, DeviceError, OutputError.
    """
    draft_model = draft_model if drafter is None else drafter
    model = Model.open(
        resolve(bundle),
        device=device,
        threads=threads,
        profiles=cache_folder() / "profiles",
        draft_model=None if draft_model is None else resolve(draft_model),
    )
    if suffix_memory is not None:
        vocabulary = model.manifest.files["tokenizer.json"].sha256
        memory = SuffixMemory(file=Path(suffix_memory), vocabulary=vocabulary)
        model.shared.get("suffix memory", lambda: memory)
    return LanguageModel(model)


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
    cuts: str = "none",
    revision: str | None = None,
    drafter: str | Path | None = None,
    drafter_precision: Precision | None = None,
    lora: str | Path | None = None,
    ffn_width: str | None = None,
    draft_head: str | int | None = None,
    exit_adapters: str | Path = "auto",
    via: Literal["optimum"] | None = None,
    check: bool = False,
    force: bool = False,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
) -> Path:
    """Write the checkpoint (a folder, a GGUF file or a hub id) as a bundle to the folder `output`, and return that.

    The folder appears whole or not at all. `group_size` is the weights per scale (32, 64 or 128), `exits` is `none`,
    `auto` or layer numbers like `4,8`; `cuts` is `none`, `each` or layer numbers, after which stages end too, so that
    drafts can leave stages out. `drafter` is a smaller checkpoint that guesses for this one; it goes into the
    bundle too, by default in the same precision. `lora` is the folder of an adapter to merge, `ffn_width` narrows
    nested FFNs: one number, or one per layer apart by commas. `draft_head` adds a head for drafts from the first
    layers, which knows so many of the first tokens, `auto` for a quarter. `check` compares the bundle with transformers
    before it is shown. `exit_adapters` is what was trained for the exits: a file, `none`, or `auto` for that in the
    checkpoint's folder. `via` lets optimum export a family that has no table here; its bundle has no exits, trees or
    exact mode.
    Raises: CheckpointError, UnsupportedModel, ConfigError, OutputError, CheckFailed.
    """
    from skipstone.check import ExportCheck, require_transformers

    BundleWriter(Path(output), force=force)  # a taken place is refused before a checkpoint is fetched
    if check:
        require_transformers()
    chosen = plan(
        checkpoint,
        precision=precision,
        group_size=group_size,
        exits=exits,
        cuts=cuts,
        revision=revision,
        drafter=drafter,
        drafter_precision=drafter_precision,
        lora=lora,
        ffn_width=ffn_width,
        draft_head=draft_head,
        exit_adapters=exit_adapters,
        via=via,
    )
    write(chosen, Path(output), force=force, check=ExportCheck(chosen) if check else None, on_progress=on_progress)
    return Path(output)


def plan(
    checkpoint: str | Path,
    *,
    precision: Precision = "int4",
    group_size: int | None = None,
    exits: str = "none",
    cuts: str = "none",
    revision: str | None = None,
    drafter: str | Path | None = None,
    drafter_precision: Precision | None = None,
    lora: str | Path | None = None,
    ffn_width: str | None = None,
    draft_head: str | int | None = None,
    exit_adapters: str | Path = "auto",
    via: Literal["optimum"] | None = None,
) -> ExportPlan | WrappedPlan:
    """Return what `export` would do, checked as far as the headers tell; no weight is read.

    `remarks` of the plan say what is not as asked for, or not ideal. Raises: as `export` does.
    """
    from skipstone.exporters import plan_export

    recipe, small = _recipe(precision, group_size), None
    if via is not None:
        from skipstone.exporters.optimum import plan_wrapped, refuse_options

        given_exits = None if exits == "none" else exits
        refuse_options(
            exits=given_exits,
            cuts=None if cuts == "none" else cuts,
            drafter=drafter,
            drafter_precision=drafter_precision,
            lora=lora,
            ffn_width=ffn_width,
            draft_head=draft_head,
            exit_adapters=None if exit_adapters == "auto" else exit_adapters,
        )
        return plan_wrapped(_source(checkpoint), recipe, revision=revision)
    if drafter is not None:
        small = plan_export(_source(drafter), _recipe(drafter_precision or precision, group_size))
    elif drafter_precision is not None:
        raise ConfigError(f"the drafter's precision is {drafter_precision}, but there is no drafter; name one as well")
    return plan_export(
        _source(checkpoint),
        recipe,
        exits=exits,
        cuts=cuts,
        revision=revision,
        draft_model=small,
        lora=None if lora is None else Path(lora),
        ffn_width=ffn_width,
        draft_head=draft_head,
        exit_adapters=exit_adapters,
    )


def write(
    chosen: ExportPlan | WrappedPlan,
    output: Path,
    *,
    force: bool = False,
    command: str = "",
    check: Callable[[Path], Mapping[str, object]] | None = None,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
) -> None:
    """Write what was planned to the folder `output`, whole or not at all; see `write_bundle`."""
    from skipstone.exporters import ExportPlan, write_bundle
    from skipstone.exporters.optimum import write_wrapped

    if isinstance(chosen, ExportPlan):
        write_bundle(chosen, output, force=force, command=command, check=check, on_progress=on_progress)
    else:
        write_wrapped(chosen, output, force=force, command=command, check=check)


def _recipe(precision: Precision, group_size: int | None) -> Recipe:
    try:
        return Recipe.named(precision, group_size=group_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _source(checkpoint: str | Path) -> str | Path:
    return BUNDLED.get(str(checkpoint), checkpoint)

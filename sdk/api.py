"""The two verbs: load a bundle, export a checkpoint.

What only exporting needs is imported when exporting: a running model does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from skipstone.bundled import BUNDLED, bundled_bundle, notes_folder
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import BundleWriter
from skipstone.runtime.engine import Model
from skipstone.runtime.text import SuffixMemory

if TYPE_CHECKING:
    from skipstone.exporters import ExportKeywords, ExportPlan, PlanKeywords, Precision
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["export", "load", "plan", "resolve"]


@checks_arguments
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
        profiles=notes_folder(),
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


@checks_arguments
def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    check: bool = False,
    force: bool = False,
    calibrate: str | Path | None = None,
    budget: str | None = None,
    prune: str | None = None,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
    **options: Unpack[PlanKeywords],
) -> Path:
    """Write the checkpoint (a folder, a GGUF file or a hub id) as a bundle to the folder `output`, and return that.

    The folder appears whole or not at all. `check` compares the bundle with transformers before it is shown; `force`
    replaces a bundle that is there. `calibrate` rounds the weights by what they are multiplied by on a text: a text
    file, a file of JSON lines with chats, or `auto` for the text in the package. `budget` is what the bundle may
    cost, `4.5bits`, `100MB` or `8ms`: each matrix gets the bits and blocks by which least is lost. `prune`
    leaves out whole layers, those that the text of `calibrate` misses least, by default that of the package: an amount
    such as `2layers` or `20%`. The other options:

    - `precision`: `int4` (the default), `int4-fast`, `int8` or `fp32`; without one, integers of the checkpoint are kept
      as they are. `group_size`: the weights per scale, 32, 64 or 128.
    - `exits`: `none`, `auto` or layer numbers like `4,8`; `cuts`: `none`, `each` or layer numbers, after which stages
      end too, so that drafts can leave stages out.
    - `revision`: a branch, tag or commit of a hub id.
    - `draft_model`: a smaller checkpoint that guesses for this one and goes into the bundle too, by default in the same
      precision, else in `draft_model_precision`. `drafter` and `drafter_precision` are their old names.
    - `lora`: the folder of an adapter to merge; `ffn_width` narrows nested FFNs: one number, or one per layer apart by
      commas; `transforms`: objects of classes of your own that change the model, derived from `Transform`.
    - `draft_head`: a head for drafts from the first layers, which knows so many of the first tokens; `auto` for a
      quarter.
    - `exit_adapters`: what was trained for the exits: a file, `none`, or `auto` for that in the checkpoint's folder.
    - `target`: `ort` for the fused operators of onnxruntime, `plain` for those of the ONNX standard, which other
      providers take too; a plain bundle has no exact mode.
    - `via`: `optimum` exports a family that has no table here; its bundle has no exits, trees or exact mode.

    Raises: CheckpointError, UnsupportedModel, ConfigError, OutputError, CheckFailed.
    """
    from skipstone.calibrate import AUTO, Budget, Calibration, Documents, within_budget
    from skipstone.check import ExportCheck, require_transformers
    from skipstone.exporters.transforms import DropLayers
    from skipstone.prune import find_layers

    BundleWriter(Path(output), force=force)  # a taken place is refused before a checkpoint is fetched
    if check:
        require_transformers()
    documents = None if calibrate is None else Documents.read(calibrate)
    limit = None if budget is None else Budget.parse(budget)
    if (documents or limit) and options.get("precision") is None:
        options["precision"] = "int4"  # rounding was asked for, so integers are not kept
    planned = plan(checkpoint, **options)
    if prune is not None:
        layers = find_layers(planned, prune, documents or Documents.read(AUTO)).layers
        options["transforms"] = [*options.get("transforms", ()), DropLayers(layers)]
        planned = plan(checkpoint, **options)
    comparison = ExportCheck(planned) if check else None
    if documents is None:
        planned = planned if limit is None else within_budget(planned, limit)
        planned.write(Path(output), force=force, check=comparison, on_progress=on_progress)
        return Path(output)
    with Calibration(planned, documents, budget=limit) as calibration:
        solved = calibration.solve()
        solved.write(Path(output), force=force, check=calibration.check(comparison), on_progress=on_progress)
    return Path(output)


@checks_arguments
def plan(
    checkpoint: str | Path,
    *,
    draft_model: str | Path | None = None,
    draft_model_precision: Precision | None = None,
    drafter: str | Path | None = None,
    drafter_precision: Precision | None = None,
    via: Literal["optimum"] | None = None,
    **keywords: Unpack[ExportKeywords],
) -> ExportPlan | WrappedPlan:
    """Return what `export` would do, checked as far as the headers tell; the options are those of `export`.

    `remarks` of the plan say what is not as asked for, or not ideal; `write` of the plan does it.
    Raises: as `export` does.
    """
    from skipstone.exporters import ExportOptions, plan_export, with_draft_model

    options = ExportOptions.of(**keywords)
    draft_model = draft_model if drafter is None else drafter
    draft_model_precision = draft_model_precision or drafter_precision
    if via is not None:
        from skipstone.exporters.optimum import plan_wrapped

        return plan_wrapped(_source(checkpoint), options, draft_model=draft_model or draft_model_precision)
    small = None
    if draft_model is not None:
        precision, group_size = keywords.get("precision"), keywords.get("group_size")
        small_options = ExportOptions.of(
            precision=draft_model_precision or precision, group_size=group_size, target=options.target
        )
        small = plan_export(_source(draft_model), small_options)
    elif draft_model_precision is not None:
        raise ConfigError(
            f"the draft model's precision is {draft_model_precision}, but there is no draft model; name one as well"
        )
    target = plan_export(_source(checkpoint), options)
    return target if small is None else with_draft_model(target, small)


def _source(checkpoint: str | Path) -> str | Path:
    return BUNDLED.get(str(checkpoint), checkpoint)

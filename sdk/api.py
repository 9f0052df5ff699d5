"""The two verbs: load a bundle, export a checkpoint.

What only exporting needs is imported when exporting: a running model does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from skipstone.bundled import notes_folder
from skipstone.by_name import resolve
from skipstone.devices import Device, bounded, open_device
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.option_types import checks_arguments
from skipstone.planning import plan
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.costs import CacheChoice, find_cache
from skipstone.runtime.engine import CacheName, Model, PrefillName
from skipstone.runtime.methods import MethodChoice
from skipstone.runtime.text import SuffixMemory
from skipstone.watcher import Watcher

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan, PlanKeywords
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["export", "load", "plan", "resolve"]


@checks_arguments
def load(
    bundle: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_threads: int | None = None,
    suffix_memory: str | Path | None = None,
    draft_model: str | Path | None = None,
    drafter: str | Path | None = None,
    draft_device: str | None = None,
    cache: CacheName | Literal["auto"] | None = None,
    prefill: PrefillName = "auto",
    expected_decode: str | None = None,
    expected_tokens: int | None = None,
    verify_files: bool = False,
    allow_special: bool = False,
) -> LanguageModel:
    """Return the model in a bundle folder, or the bundled one when `bundle` is the word `pebble`.

    A checkpoint folder, a GGUF file or a hub id is exported first, as `export` does it without options, and kept in the
    user's cache; the next time it is only opened. See `skipstone cache`.

    `device` is a name of `skipstone devices`, with a unit where there are several, such as `cuda:1`; or `auto` for the
    best that works, which says in `model.runtime.device_told` what it took and why not others, and warns where it fell
    back to the processor.
    It runs on `threads` threads; by default on as many as are fastest now, which changes no text, and at most on
    `max_threads`, by default one for each physical core.
    `suffix_memory` is a file in which the suffix drafter keeps what was written, up to 65,536 tokens, and finds it in
    later processes; without one it remembers within this object. `draft_model` is a smaller bundle that guesses for
    this one, in place of the draft model inside; `drafter` is its old name. The draft model runs on `draft_device`, by
    default on `device`; `threads` are those of either. `cache` is the type of the cache, `fp32`, or `int8` where
    the bundle was exported with one; None is the bundle's own. It may change texts. `auto` takes the
    type that this device runs quicker, by cost curves that are measured once: for texts of `expected_tokens`, by
    default half of what the model sees, that are written by the method `expected_decode`, by default `auto`. Why,
    stands in `model.cache_choice`. `prefill` says which graphs read prompts: `int8` those that `export --prefill int8`
    made, which are quicker and change texts a little, `same` those that decode; `auto` is what the bundle says,
    whatever the prompt. `verify_files` compares every byte of the bundle with its manifest first; without it only small
    files, and a few blocks of large ones. A special token that a message of a chat spells, such as `<|im_start|>`, is
    plain text, unless `allow_special` lets it be one. Raises: BundleError, ConfigError, DeviceError, OutputError.
    """
    draft_model = draft_model if drafter is None else drafter
    folder, choice = resolve(bundle), None
    if cache == "auto":
        opened = bounded(open_device(device, threads=threads), threads=threads, max_threads=max_threads)
        choice = _chosen_cache(folder, opened, expected_decode, expected_tokens)
    elif expected_decode is not None or expected_tokens is not None:
        raise ConfigError("expected_decode and expected_tokens are for cache='auto'; leave them out, or ask for it")
    model = Model.open(
        folder,
        device=device,
        threads=threads,
        max_threads=max_threads,
        profiles=notes_folder(),
        draft_model=None if draft_model is None else resolve(draft_model),
        draft_device=draft_device,
        cache=choice.option if choice else None if cache == "auto" else cache,
        prefill=prefill,
        verify_files=verify_files,
    )
    model.allows_special = allow_special
    if suffix_memory is not None:
        vocabulary = model.manifest.files["tokenizer.json"].sha256
        memory = SuffixMemory(file=Path(suffix_memory), vocabulary=vocabulary)
        model.shared.get("suffix memory", lambda: memory)
    return LanguageModel(model, cache_choice=choice)


def _chosen_cache(folder: Path, device: Device, decode: str | None, num_tokens: int | None) -> CacheChoice:
    """Return the type of cache that is quicker for such texts."""
    rows = MethodChoice.parse("auto" if decode is None else decode).usual_rows
    return find_cache(Bundle.open(folder), device, notes_folder(), num_rows=rows, context=num_tokens)


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
    experts: str | int | None = None,
    active: float | None = None,
    distill: bool = False,
    cache: CacheName = "fp32",
    sign: str | Path | None = None,
    on_progress: Callable[[int], None] = lambda num_parameters: None,
    **options: Unpack[PlanKeywords],
) -> Path:
    """Write the checkpoint (a folder, a GGUF file or a hub id) as a bundle to the folder `output`, and return that.

    The folder appears whole or not at all. `check` compares the bundle with transformers before it is shown; `force`
    replaces a bundle that is there. `calibrate` rounds the weights by what they are multiplied by on a text: a text
    file, a file of JSON lines with chats, or `auto` for the text in the package. `budget` is what the bundle may
    cost, `4.5bits`, `100MB` or `8ms`: each matrix gets the bits and blocks by which least is lost. `prune`
    leaves out what the text of `calibrate` misses least, by default that of the package: whole layers (`2layers`, or
    `20%` of them), attention or FFN of layers alone (`blocks:4`), or channels of the FFNs (`width:25%`).
    `experts` carves each FFN into so many experts, or `auto`, by what it does on that text: beside the model itself
    the bundle can use a part of it for each token, by default the share `active`, 0.5. `distill` fits what
    stands in for experts that are left out, where the text shows a gain.
    `cache` `int8` adds graphs whose cache holds integers, a quarter of the bytes, and makes that the bundle's own type;
    its scales come from the text of `calibrate`, by default that of the package. `sign` is the PEM file of an Ed25519
    key that signs the bundle; whoever sets SKIPSTONE_TRUST loads bundles with such signatures only.
    The other options:

    - `precision`: `int4`, `int4-fast`, `int8` or `fp32`; without one, integers of the checkpoint are kept as they are,
      and numbers get `int4`, or `int8` in models below 400 M weights. `group_size`: weights per scale, 32, 64 or 128.
    - `recipe`: in place of both, a file with a recipe of your own, or the folder of a bundle whose recipe to take.
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
    - `prefill`: `int8` makes graphs that read prompts in 8-bit integers too, faster; a byte a weight more.
    - `target`: `ort` for the fused operators of onnxruntime, `plain` for those of the ONNX standard, which other
      providers take too; a plain bundle has no exact mode.
    - `via`: `optimum` exports a family that has no table here; its bundle has no exits, trees or exact mode.

    Raises: CheckpointError, UnsupportedModel, ConfigError, OutputError, CheckFailed.
    """
    from skipstone.export_job import ExportJob

    job = ExportJob(
        checkpoint=checkpoint,
        output=Path(output),
        options=options,
        check=check,
        force=force,
        calibrate=calibrate,
        budget=budget,
        prune=prune,
        experts=None if experts is None else str(experts),
        active=active,
        distill=distill,
        cache=cache,
        sign=sign,
    )
    job.run(_Counting(on_progress))
    return job.output


class _Counting(Watcher):
    """Hands on how many parameters were read."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress

    @contextmanager
    def writing(self, plan: ExportPlan | WrappedPlan) -> Iterator[Callable[[int], None]]:
        yield self._on_progress

"""Guess with some of the model's own layers left out; all of them verify, from what the first ones already gave."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest, Note
from skipstone.runtime.decoding import ConfidenceStop, Drafter, ModelDrafter
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth.exits import Exit, ExitText
from skipstone.runtime.methods.depth.self_draft import SelfDrafter
from skipstone.runtime.methods.method import DrafterContext, Method
from skipstone.runtime.sampling import picker_for

__all__ = ["METHOD", "SkipSet", "can_skip", "open_skip", "require_skip_set", "skip_note", "skipped_stages"]

NAME = "skip"
COMMAND = "`skipstone tune skip BUNDLE --text FILE`"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipSet:
    """The layers that drafts leave out, counted from 0, ascending.

    `agreement` is the share of `num_tokens` tokens at which a draft chose what the full model chooses. On the device
    of the search a guess costs `guess_cost` plain steps, and drafts of `length` guesses promise `speed_up`.
    """

    num_tokens: int
    layers: tuple[int, ...]
    agreement: float
    guess_cost: float
    speed_up: float
    length: int


def skip_note(manifest: Manifest) -> Note[SkipSet]:
    """Return the note of the layers to leave out. It belongs to weights and precision, not to a device nor to cuts."""
    weights = manifest.files["weights.bin"].sha256
    return Note(
        finding=SkipSet,
        name="skip",
        what="set of layers to leave out",
        command=COMMAND,
        made_for={"weights": weights},
        key=(weights, manifest.recipe),
    )


def skipped_stages(manifest: Manifest, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stages of a bundle that hold just these layers.

    Raises: ConfigError with the cuts to export with when stages hold others too, and for the first or the last layer.
    """
    last = manifest.dimensions.num_layers - 1
    if not layers or not 0 < min(layers) <= max(layers) < last:
        raise ConfigError(
            f"layers {[*layers]} cannot be left out, only some of 1 to {last - 1}; search again with {COMMAND}"
        )
    inside = [{*range(stage.first_layer, stage.end_layer)} <= {*layers} for stage in manifest.stages]
    found = tuple(number for number, is_inside in enumerate(inside) if is_inside)
    held = sum(manifest.stages[number].end_layer - manifest.stages[number].first_layer for number in found)
    if held == len(layers):
        return found
    num_layers = manifest.dimensions.num_layers
    cuts = [border for border in range(1, num_layers) if (border in layers) != (border - 1 in layers)]
    raise ConfigError(
        f"the layers to leave out, {', '.join(map(str, layers))} from 0, are not whole stages of this bundle; make one "
        f"with `skipstone export CHECKPOINT -o OUT --cuts {','.join(map(str, cuts))}`, or search with {COMMAND}"
    )


def open_skip(context: DrafterContext) -> Drafter:
    """Return a drafter of chains for one text, which leaves out the stages that a search found for these weights.

    The stages before the first that is left out give exact rows, which the verifying call reuses; it writes over those
    that the later ones cached. A chain ends as Draft & Verify has it, and where `SelfDrafter` sees no gain.
    Source: Draft & Verify (Zhang et al., 2024), with whole layers.
    Raises: ConfigError when no set is known, or the bundle is cut elsewhere.
    """
    model, manifest = context.model, context.model.manifest
    skipped = skipped_stages(manifest, require_skip_set(model).layers)
    num_first, num_layers = skipped[0], manifest.dimensions.num_layers
    then = tuple(number for number in range(num_first, len(manifest.stages)) if number not in skipped)
    num_skipped = sum(manifest.stages[number].end_layer - manifest.stages[number].first_layer for number in skipped)
    text, picker = ExitText(context.sequence, num_first, then), picker_for(context.sampler, context.rule)
    drafter = ModelDrafter(text, picker, name=NAME, rule=context.rule, stop=ConfidenceStop())
    first_layers = manifest.stages[num_first - 1].end_layer
    exit = Exit(
        num_layers=first_layers,
        num_stages=num_first,
        share=first_layers / num_layers,
        guess_share=1 - num_skipped / num_layers,
        text=text,
        judge=drafter,
    )
    return SelfDrafter([exit], name=NAME, timed=context.rule == "match")


def require_skip_set(model: Model) -> SkipSet:
    """Return the layers to leave out of a model, read once. Raises: ConfigError when none are known."""
    return model.shared.get("skip set", lambda: _read(model))


def _read(model: Model) -> SkipSet:
    known, num_stages = skip_note(model.manifest).kept(model.profiles), len(model.manifest.stages)
    if known is not None:
        return known
    if num_stages < 3:
        raise ConfigError(
            f"decoding method 'skip' leaves out stages between the first and the last, the bundle has {num_stages}; "
            f"make one with `skipstone export CHECKPOINT -o OUT --cuts each`, then run {COMMAND} once"
        )
    raise ConfigError(f"which layers decoding method 'skip' may leave out is not known; run {COMMAND} once")


def can_skip(model: Model) -> bool:
    """Return whether a set is known that this bundle can leave out; looked up once."""
    return model.shared.get("can skip", lambda: _can_skip(model))


def _can_skip(model: Model) -> bool:
    if len(model.manifest.stages) < 3:
        return False
    try:
        skipped_stages(model.manifest, require_skip_set(model).layers)
    except ConfigError:
        return False
    return True


METHOD = Method(name="skip", drafts=open_skip, auto_rank=5, is_ready=can_skip)

"""A method of `--decode` as a row: its name, what it needs of a model, its dial, and whether it drafts or writes.

Each row stands in the file of its method; the registry collects them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal, TypeAlias

from skipstone.devices import Capability
from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, Step
from skipstone.runtime.engine import Model, Sequence, SharedStores
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import TextBuilder

__all__ = [
    "AGREEMENTS",
    "DRAFT_MODEL",
    "EXITS",
    "SEVERAL_ROWS",
    "ApproximateContext",
    "Dial",
    "DrafterContext",
    "Method",
    "Need",
    "Opened",
    "require_agreement",
    "require_number",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproximateContext:
    """What an approximate method may use for one text; `setting` is that of its dial.

    `calibration` is a file in place of the one that is kept for the model; `forced`: use the method where it does not
    pay too, so that its quality is seen. `text`, still empty, says where a stop string or `stop_below` ends what is
    pushed; None where only stop tokens and the limit do.
    """

    model: Model
    sequence: Sequence
    sampler: Sampler
    setting: float
    max_new_tokens: int
    stop_ids: Collection[int]
    calibration: Path | None = None
    forced: bool = False
    text: TextBuilder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The steps of one text, not yet begun, and what the method promises in words.

    `note` is what there is to say beside any promise, that of a calibration too.
    """

    steps: Iterator[Step]
    promise: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterContext:
    """What a drafter may use for one text.

    `sampler` chooses the tokens of this text from the target's logits; `sequence` is the target's text; `shared` keeps
    what outlives the text, `text` what its drafters share. `trees` says
    whether drafts may branch: not in exact mode, nor where layers see only a window of the text. `rule` is the rule
    that verifies: `match` takes any draft, `rejection` and `k-seq` need drafts drawn by chance, with their laws; a
    drafter that cannot give them raises ConfigError when opened.
    """

    model: Model
    sampler: Sampler
    sequence: Sequence
    shared: SharedStores = field(default_factory=SharedStores)
    text: SharedStores = field(default_factory=SharedStores)
    trees: bool = True
    rule: Literal["match", "rejection", "k-seq"] = "match"


@dataclass(frozen=True, slots=True)
class Need:
    """What a model must have for a method: how to see it, and what to say and to do where it is missing."""

    is_met: Callable[[Model], bool]
    lack: str
    remedy: str


DRAFT_MODEL = Need(
    lambda model: model.has_draft_model,
    "needs a small model, and the bundle has none",
    "make one with `skipstone export CHECKPOINT -o OUT --draft-model SMALL_CHECKPOINT`, or name a smaller bundle "
    "with --draft-model",
)
EXITS = Need(
    lambda model: bool(model.manifest.exits),
    "goes no further than an exit, and the bundle has no exits",
    "make one with `skipstone export CHECKPOINT -o OUT --exits auto`",
)


SEVERAL_ROWS = Need(
    lambda model: Capability.SEVERAL_ROWS in model.device.capabilities,
    "drafts, and this device takes one row a call, so that no draft can be verified",
    "use plain, or another --device: `skipstone devices` says which have several-rows",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """How far the text may differ from plain decoding's: from `least` to `most`, not at all at `plain`, one of the two.

    `unit` says what the dial turns. `settings` are five of it, the plain one first, each looser than the one before.
    Where the dial `is_agreement` it is the share of tokens as the full model's, and needs no calibration of its own.
    """

    unit: str
    least: float
    most: float
    plain: float
    settings: tuple[float, ...]
    is_agreement: bool = False


Chance: TypeAlias = Literal["allowed", "refused", "needed"]

FIXED = Dial(unit="nothing", least=0.0, most=0.0, plain=0.0, settings=(0.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method. It drafts, and its text is plain decoding's; or it writes a text that its `dial` lets differ.

    A method that does both drafts at the plain end of its dial. One that `joins` makes one drafter of those that have
    an `auto_rank`, the cheapest first, where a model meets their needs and each `is_ready`: what `tune` finds for it
    is kept. `stands_alone`: no drafters can be named beside it. `text_only`: it never looks at logits. `remembers`: it
    keeps texts in the suffix memory. `takes_batches`: several texts may be decoded together without its drafts.
    `needs_trees`: its drafts branch, or there are none; `chain_method` drafts in its place where they cannot.
    `chance`: whether tokens may be drawn, at a temperature above 0. `all_layers`: every token is made by all layers,
    also where its text is approximate. `usual_rows` are those of its usual call of the whole model, by which a type of
    cache is chosen. `verifies`: its drafts go through the model in a call of several rows.
    """

    name: str
    needs: tuple[Need, ...] = ()
    drafts: Callable[[DrafterContext], Drafter] | None = None
    joins: Callable[[DrafterContext, SequenceOf[Drafter]], Drafter] | None = None
    writes: Callable[[ApproximateContext], Opened] | None = None
    dial: Dial = FIXED
    auto_rank: int | None = None
    is_ready: Callable[[Model], bool] = lambda model: True
    stands_alone: bool = False
    text_only: bool = False
    remembers: bool = False
    takes_batches: bool = False
    needs_trees: bool = False
    chain_method: str = ""
    chance: Chance = "allowed"
    all_layers: bool = False
    usual_rows: int = 4
    verifies: bool = True

    @property
    def is_drafter(self) -> bool:
        """Whether it drafts and can be joined with others that do."""
        return self.drafts is not None and not self.stands_alone

    @property
    def only_writes(self) -> bool:
        """Whether tokens may differ from the full model's choice at any dial."""
        return self.writes is not None and self.drafts is None

    @property
    def leaves_out_layers(self) -> bool:
        """Whether tokens may come from part of the layers, or from the draft model alone."""
        return self.only_writes and not self.all_layers

    @property
    def uses_draft_model(self) -> bool:
        return DRAFT_MODEL in self.needs

    def can_run(self, model: Model) -> bool:
        """Return whether the model has all that the method needs."""
        return all(need.is_met(model) for need in self._all_needs) and self.is_ready(model)

    @property
    def _all_needs(self) -> tuple[Need, ...]:
        """What the method names, and what all drafts need."""
        return (SEVERAL_ROWS, *self.needs) if self.drafts and self.verifies else self.needs

    def require_model(self, model: Model) -> None:
        """Raise ConfigError for a model that lacks what the method needs, or runs on a device that does."""
        for need in self._all_needs:
            if not need.is_met(model):
                raise ConfigError(f"decoding method {self.name!r} {need.lack}; {need.remedy}")

    def require(self, setting: float) -> None:
        """Raise ConfigError for a setting outside of the dial, or no number."""
        require_number(f"the dial of {self.name}", setting)
        dial = self.dial
        if not dial.least <= setting <= dial.most:
            most = "" if math.isinf(dial.most) else f" and {dial.most:g}"
            how = f"at least {dial.least:g}" if math.isinf(dial.most) else f"between {dial.least:g}{most}"
            raise ConfigError(f"the dial of {self.name}, {dial.unit}, must be {how}, got {setting:g}")

    def require_setting(
        self, min_agreement: float | None, dial: float | None, calibration: str | Path | None = None
    ) -> None:
        """Raise ConfigError unless one of the two says how far the text may differ, and for a file that none reads."""
        if min_agreement is None and dial is None:
            raise ConfigError(
                f"decode {self.name} is approximate; say how close it must stay: min_agreement, such as 0.98, "
                f"or dial, {self.dial.unit}, plain decoding at {self.dial.plain:g}"
            )
        if min_agreement is not None and dial is not None:
            raise ConfigError(f"min_agreement and dial both set the dial of {self.name}; give one of them")
        if dial is not None and calibration is not None and not self.dial.is_agreement:
            raise ConfigError(
                f"the calibration {calibration} says what dial of {self.name} keeps a min_agreement, and the dial is "
                "given; leave one out"
            )
        if dial is not None:
            self.require(dial)
        elif min_agreement is not None:
            require_agreement(min_agreement)

    def require_sampling(self, options: SamplingOptions) -> None:
        """Raise ConfigError for a temperature at which the method makes no sense."""
        if self.chance == "needed" and options.greedy:
            raise ConfigError(
                f"decode {self.name} draws several times and keeps one, and at temperature 0 all are the same; "
                "set a temperature, such as 0.8"
            )
        if self.chance == "refused" and not options.greedy:
            raise ConfigError(
                f"decode {self.name} chooses among the likeliest tokens without chance, got temperature "
                f"{options.temperature:g}; leave the temperature at 0, or use another method"
            )

    def draft(self, context: DrafterContext) -> Drafter:
        """Return the drafter of one text. Raises: ConfigError where the model lacks what the method needs."""
        assert self.drafts is not None, "a method that joins or writes is opened otherwise"
        self.require_model(context.model)
        return self.drafts(context)

    def open(self, context: ApproximateContext) -> Opened:
        """Return the text's steps. Raises: ConfigError where the model lacks what the method needs."""
        assert self.writes is not None, "a lossless method is opened as a drafter"
        self.require(context.setting)
        self.require_model(context.model)
        return self.writes(context)


AGREEMENTS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)


def require_agreement(min_agreement: float) -> None:
    """Raise ConfigError for an agreement that no calibration knows."""
    if not AGREEMENTS[0] <= min_agreement <= 1:
        raise ConfigError(f"min_agreement must lie between {AGREEMENTS[0]} and 1, got {min_agreement}")


def require_number(name: str, value: object) -> None:
    """Raise ConfigError for what is no number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")

"""The approximate methods by name: what the dial of each turns, and who runs it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model, Sequence, SharedStores
from skipstone.runtime.sampling import Sampler

if TYPE_CHECKING:
    from skipstone.runtime.decoding import Step
    from skipstone.runtime.text import TextBuilder

__all__ = [
    "AGREEMENTS",
    "ApproximateContext",
    "ApproximateMethod",
    "DrafterContext",
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
class ApproximateMethod:
    """One method. Its dial goes from `least` to `most`, and gives plain decoding's text at `plain`, one of the two.

    `dial` says what it turns and in which unit; `settings` are five of it, the plain one first, each looser than the
    one before. `where` is the module and function that opens a text. `drafts`: at its plain end it is a drafter of the
    same name, which the verifying loop runs. `little`: a little model writes beside the full one.
    """

    name: str
    dial: str
    least: float
    most: float
    plain: float
    settings: tuple[float, ...]
    where: str
    drafts: bool = False
    little: bool = False

    def require(self, setting: float) -> None:
        """Raise ConfigError for a setting outside of the dial, or no number."""
        require_number(f"the dial of {self.name}", setting)
        if not self.least <= setting <= self.most:
            most = "" if math.isinf(self.most) else f" and {self.most:g}"
            how = f"at least {self.least:g}" if math.isinf(self.most) else f"between {self.least:g}{most}"
            raise ConfigError(f"the dial of {self.name}, {self.dial}, must be {how}, got {setting:g}")

    def require_setting(
        self, min_agreement: float | None, dial: float | None, calibration: str | Path | None = None
    ) -> None:
        """Raise ConfigError unless one of the two says how far the text may differ, and for a file that none reads."""
        if min_agreement is None and dial is None:
            raise ConfigError(
                f"decode {self.name} is approximate; say how close it must stay: min_agreement, such as 0.98, "
                f"or dial, {self.dial}, plain decoding at {self.plain:g}"
            )
        if min_agreement is not None and dial is not None:
            raise ConfigError(f"min_agreement and dial both set the dial of {self.name}; give one of them")
        if dial is not None and calibration is not None and self.name != "exit":  # its dial is the agreement
            raise ConfigError(
                f"the calibration {calibration} says what dial of {self.name} keeps a min_agreement, and the dial is "
                "given; leave one out"
            )
        if dial is not None:
            self.require(dial)
        elif min_agreement is not None:
            require_agreement(min_agreement)

    def setting(
        self, model: Model, min_agreement: float | None, dial: float | None, *, calibration: Path | None = None
    ) -> tuple[float, str]:
        """Return the setting of the dial, and what it promises; "" is what the method says itself.

        Raises: ConfigError when an agreement is asked for and no calibration knows what setting keeps it.
        """
        if dial is not None:
            return dial, ""
        assert min_agreement is not None, "require_setting has looked"
        if self.name == "exit":  # its dial is the agreement
            return min_agreement, ""
        if min_agreement == 1:
            return self.plain, "all tokens as the full model's"
        from skipstone.runtime.methods.calibration import calibrated_setting

        return calibrated_setting(model, self, min_agreement, file=calibration)

    def open(self, context: ApproximateContext) -> Opened:
        """Return the text's steps. Raises: ConfigError where the model lacks what the method needs."""
        self.require(context.setting)
        module, function = self.where.split(":")
        opened = getattr(import_module(f"skipstone.runtime.methods.{module}"), function)(context)
        assert isinstance(opened, Opened)
        return opened


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


AGREEMENTS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)


def require_agreement(min_agreement: float) -> None:
    """Raise ConfigError for an agreement that no calibration knows."""
    if not AGREEMENTS[0] <= min_agreement <= 1:
        raise ConfigError(f"min_agreement must lie between {AGREEMENTS[0]} and 1, got {min_agreement}")


def require_number(name: str, value: object) -> None:
    """Raise ConfigError for what is no number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")

"""From the name of a decoding method to the drafter that runs it."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import ConfigError
from skipstone.runtime.approximate.method import APPROXIMATE
from skipstone.runtime.drafters import Drafter, DrafterContext, PlainDrafter, open_drafter, registered_drafters
from skipstone.runtime.drafters.cascade import Cascade
from skipstone.runtime.drafters.guard import Guard
from skipstone.runtime.drafters.skip import can_skip
from skipstone.runtime.model import Model
from skipstone.runtime.planning.knowledge import Knowledge
from skipstone.runtime.planning.planner import Planner
from skipstone.runtime.planning.profile import cost_curve
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.sequence import Sequence
from skipstone.runtime.verification import RULES

__all__ = ["Method"]

# Those that are no drafters.
ALONE = ("plain", "auto", *(method.name for method in APPROXIMATE.values() if not method.drafts))
# Those that guess from the text alone.
TEXT_DRAFTERS = ("ngram", "suffix")


@dataclass(frozen=True, slots=True)
class Method:
    """How to decode: `plain`, `auto`, drafters by name in order of price, or approximately; and the rule that verifies.

    Approximate methods draft nothing and may give another text than plain decoding; see `runtime/approximate`.
    Raises: ConfigError for an unknown name or rule, and for a rule that does not go with the method.
    """

    names: tuple[str, ...] = ("auto",)
    rule: str = "match"

    def __post_init__(self) -> None:
        known = registered_drafters()
        if self.rule not in RULES:
            raise ConfigError(f"verify {self.rule!r} is not known; known are {', '.join(RULES)}")
        for name in self.names:
            if name not in known and name not in ALONE:
                raise ConfigError(
                    f"decoding method {name!r} is not known; known are {', '.join((*ALONE[:2], *known, *ALONE[2:]))}"
                )
        if len(self.names) != len(set(self.names)) or not self.names:
            raise ConfigError(f"decoding methods must be given once each, got {','.join(self.names) or 'none'}")
        alone = [name for name in self.names if name in ALONE]
        if alone and len(self.names) > 1:
            raise ConfigError(f"{alone[0]} stands alone; join drafters only, such as ngram,model")
        if self.rule != "match" and self.is_approximate:
            raise ConfigError(f"{self.names[0]} has no drafts that {self.rule} could verify; leave verify at match")
        if self.rule != "match" and self.names == ("auto",):
            raise ConfigError(
                f"auto chooses by what was drafted, which would bend the law that {self.rule} keeps; "
                "name the drafter, such as model"
            )

    @property
    def is_approximate(self) -> bool:
        """Whether tokens may differ from the full model's choice."""
        return self.names[0] in ALONE[2:]

    @classmethod
    def parse(cls, text: str, *, rule: str = "match") -> Method:
        """Return the method called `plain`, `auto` or as an approximate one, or drafters joined by commas."""
        return cls(tuple(name.strip() for name in text.split(",")), rule)

    def open(self, model: Model, sequence: Sequence, sampler: Sampler, *, text_only: bool = False) -> Drafter:
        """Return the drafter for one text; `text_only`: one that never looks at logits.

        Raises: ConfigError for an approximate method, and when a drafter cannot run on this model, or looks at logits
        and must not.
        """
        if self.names == ("plain",):
            return PlainDrafter()
        if self.is_approximate:
            raise ConfigError(
                f"{self.names[0]} drafts nothing and may change the text; it is for generate and eval only"
            )
        is_auto = self.names == ("auto",)
        context = DrafterContext(
            model=model,
            sampler=sampler,
            sequence=sequence,
            shared=model.shared,
            trees=sequence.takes_trees,
            rule=self.rule,  # type: ignore[arg-type]
        )
        names = self.names
        if is_auto:
            names = TEXT_DRAFTERS if text_only else planned_names(model)
        if text_only and not set(names) <= set(TEXT_DRAFTERS):
            raise ConfigError(
                f"{','.join(names)} needs more than text; known here are plain, auto, {', '.join(TEXT_DRAFTERS)}"
            )
        drafters = [open_drafter(name, context) for name in names]
        guards = [Guard(drafter, sequence) for drafter in drafters]
        if is_auto:
            knowledge = model.shared.get("planner knowledge", Knowledge)
            return Planner(guards, cost_curve(model), knowledge=knowledge, exact=sequence.exact)
        return Cascade(guards) if len(guards) > 1 else drafters[0]


def planned_names(model: Model) -> tuple[str, ...]:
    """Return the drafters that `auto` weighs, in order of price."""
    return (
        *TEXT_DRAFTERS,
        "recycle",
        *(("model",) if model.has_drafter else ()),
        *(("self",) if model.manifest.exits else ()),
        *(("skip",) if can_skip(model) else ()),
    )

"""Drafters by name: ours and those of other packages come in through the same door."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from skipstone.errors import ConfigError
from skipstone.runtime.costs import cost_curve
from skipstone.runtime.decoding import Drafter, Guard, PlainDrafter
from skipstone.runtime.decoding.verify import RULES
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.methods.auto import Knowledge, Planner
from skipstone.runtime.methods.depth import can_skip
from skipstone.runtime.methods.in_order import Cascade
from skipstone.runtime.methods.method import ApproximateMethod, DrafterContext
from skipstone.runtime.sampling import Sampler

__all__ = ["APPROXIMATE", "GROUP", "Method", "open_drafter", "registered_drafters"]

APPROXIMATE: Mapping[str, ApproximateMethod] = MappingProxyType(
    {
        method.name: method
        for method in (
            ApproximateMethod(
                name="exit",
                dial="the share of tokens as the full model's",
                least=0.8,
                most=1.0,
                plain=1.0,
                settings=(1.0, 0.99, 0.98, 0.95, 0.9),
                where="depth.exit:open_exit",
            ),
            ApproximateMethod(
                name="adaptive",
                dial="the least estimated chance that a token which leaves is the full model's",
                least=0.0,
                most=1.0,
                plain=1.0,
                settings=(1.0, 0.99, 0.9, 0.7, 0.5),
                where="depth.adaptive:open_adaptive",
            ),
            ApproximateMethod(
                name="skipdecode",
                dial="the share of the layers that run at the end",
                least=0.0,
                most=1.0,
                plain=1.0,
                settings=(1.0, 0.9, 0.75, 0.5, 0.25),
                where="depth.skipdecode:open_skipdecode",
            ),
            ApproximateMethod(
                name="switch",
                dial="entropy in bits",
                least=0.0,
                most=math.inf,
                plain=0.0,
                settings=(0.0, 0.5, 1.0, 2.0, 4.0),
                where="small_model.switch:open_switch",
                little=True,
            ),
            ApproximateMethod(
                name="big-little",
                dial="surprise in nats",
                least=0.0,
                most=math.inf,
                plain=0.0,
                settings=(0.0, 1.0, 2.0, 3.0, 5.0),
                where="small_model.big_little:open_lenient",
                drafts=True,
                little=True,
            ),
            ApproximateMethod(
                name="cascade",
                dial="the probability that the small model gives its least likely tokens",
                least=0.0,
                most=1.0,
                plain=1.0,
                settings=(1.0, 0.3, 0.2, 0.15, 0.1),
                where="small_model.cascade:open_cascade",
                little=True,
            ),
        )
    }
)
GROUP = "skipstone.drafters"
# The value of an entry point is a factory: it takes a DrafterContext and returns a Drafter.
OUR_DRAFTERS = tuple(
    EntryPoint(name=name, value=f"skipstone.runtime.methods.{where}", group=GROUP)
    for name, where in {
        "ngram": "from_text.ngram:open_ngram",
        "suffix": "from_text.suffix:open_suffix",
        "recycle": "from_text.recycle:open_recycle",
        "model": "small_model.model:open_model",
        "tree": "small_model.tree:open_tree",
        "staged": "small_model.staged:open_staged",
        "big-little": "small_model.big_little:open_big_little",
        "self": "depth.self_draft:open_self",
        "skip": "depth.skip:open_skip",
        "free": "depth.free:open_free",
        "jacobi": "from_text.jacobi:open_jacobi",
        "lookahead": "from_text.lookahead:open_lookahead",
    }.items()
)


@functools.cache  # looking through all installed packages takes milliseconds
def registered_drafters() -> Mapping[str, EntryPoint]:
    """Return all drafters by name. Raises: ConfigError when two have the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in (*OUR_DRAFTERS, *entry_points(group=GROUP)):
        if entry.name in found:
            raise ConfigError(
                f"the drafter {entry.name} is registered twice, by {found[entry.name].value} and {entry.value}: "
                "uninstall one of the two packages"
            )
        found[entry.name] = entry
    return found


def open_drafter(name: str, context: DrafterContext) -> Drafter:
    """Return the drafter `name` for one text. Raises: ConfigError for an unknown name, or for one that cannot run."""
    registered = registered_drafters()
    if name not in registered:
        raise ConfigError(f"decoding method {name!r} is not known; known are plain, auto, {', '.join(registered)}")
    drafter: Drafter = registered[name].load()(context)
    return drafter


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
        *(("model",) if model.has_draft_model else ()),
        *(("self",) if model.manifest.exits else ()),
        *(("skip",) if can_skip(model) else ()),
    )

"""What `--decode` and `--verify` ask for together."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.decoding.verify import RULES
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.methods.in_order import in_order
from skipstone.runtime.methods.method import DrafterContext, Method
from skipstone.runtime.methods.registry import known_methods, method_named
from skipstone.runtime.sampling import Sampler

__all__ = ["MethodChoice", "weighed_methods"]


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """How to decode: one method by name, or several drafters in order of price; and the rule that verifies.

    Raises: ConfigError for an unknown name or rule, and for a rule that does not go with the method.
    """

    names: tuple[str, ...] = ("auto",)
    rule: str = "match"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"verify {self.rule!r} is not known; known are {', '.join(RULES)}")
        alone = [name for name in self.names if not method_named(name).is_drafter]
        if len(self.names) != len(set(self.names)) or not self.names:
            raise ConfigError(f"decoding methods must be given once each, got {','.join(self.names) or 'none'}")
        if alone and len(self.names) > 1:
            raise ConfigError(f"{alone[0]} stands alone; join drafters only, such as ngram,model")
        if self.rule != "match" and self.is_approximate:
            raise ConfigError(f"{self.names[0]} has no drafts that {self.rule} could verify; leave verify at match")
        if self.rule != "match" and self.methods[0].joins:
            raise ConfigError(
                f"{self.names[0]} chooses by what was drafted, which would bend the law that {self.rule} keeps; "
                "name the drafter, such as model"
            )

    @classmethod
    def parse(cls, text: str, *, rule: str = "match") -> MethodChoice:
        """Return the choice of one method, or of drafters joined by commas."""
        return cls(tuple(name.strip() for name in text.split(",")), rule)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that are named."""
        return tuple(map(method_named, self.names))

    @property
    def considered(self) -> tuple[Method, ...]:
        """The methods that may come to use: those named, and those that one of them joins."""
        joined = weighed_methods() if any(method.joins for method in self.methods) else ()
        return (*self.methods, *joined)

    @property
    def is_approximate(self) -> bool:
        """Whether tokens may differ from the full model's choice."""
        return self.methods[0].only_writes

    @property
    def stands_alone(self) -> bool:
        """Whether no drafters can be named beside it."""
        return not self.methods[0].is_drafter

    @property
    def takes_batches(self) -> bool:
        """Whether several texts may be decoded together without drafts in its place."""
        return all(method.takes_batches for method in self.methods)

    @property
    def usual_rows(self) -> int:
        """The rows of a usual call of the whole model."""
        return 1 if self.is_approximate else max(method.usual_rows for method in self.methods)

    @property
    def needs_trees(self) -> bool:
        """Whether drafts branch in any case, so that texts are plain decoding's up to near ties only."""
        return any(method.needs_trees for method in self.methods)

    def open(self, model: Model, sequence: Sequence, sampler: Sampler, *, text_only: bool = False) -> Drafter:
        """Return the drafter for one text; `text_only`: one that never looks at logits.

        Raises: ConfigError for an approximate method, and when a drafter cannot run on this model, or looks at logits
        and must not.
        """
        if self.is_approximate:
            raise ConfigError(
                f"{self.names[0]} drafts nothing and may change the text; it is for generate and eval only"
            )
        self._require_chains(sequence)
        context = DrafterContext(
            model=model,
            sampler=sampler,
            sequence=sequence,
            shared=model.shared,
            trees=sequence.takes_trees and not sequence.exact,
            rule=self.rule,  # type: ignore[arg-type]
        )
        if text_only and not all(method.text_only for method in self.methods):
            known = ", ".join(name for name, method in known_methods().items() if method.text_only)
            raise ConfigError(f"{','.join(self.names)} needs more than text; known here are {known}")
        join = self.methods[0].joins
        methods = weighed_methods(model, text_only=text_only) if join else self.methods
        drafters = [method.draft(context) for method in methods]
        if join:
            return join(context, drafters)
        return in_order(context, drafters) if len(drafters) > 1 else drafters[0]

    def _require_chains(self, sequence: Sequence) -> None:
        """Raise ConfigError for drafts that branch, where the text must have the bits of plain decoding."""
        for method in self.methods:
            if method.needs_trees and sequence.exact and sequence.takes_trees:
                raise ConfigError(
                    f"{method.name} drafts trees, which cannot be verified to the bit with quantized weights; give "
                    f"--no-exact (exact=False) for a text up to near ties, or use {method.chain_method}"
                )


def weighed_methods(model: Model | None = None, *, text_only: bool = False) -> tuple[Method, ...]:
    """Return the drafters that `auto` weighs, in order of price: on this model, or on any."""
    return tuple(
        method
        for method in known_methods().values()
        if method.auto_rank is not None
        and (model is None or method.can_run(model))
        and (method.text_only or not text_only)
    )

"""A draft model's own sequence, kept in step with the target's text."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods.method import DRAFT_MODEL, ApproximateContext, DrafterContext
from skipstone.runtime.text import same_but_for_rows, same_tokenizer

__all__ = ["Follower", "SmallModel", "as_drafter_context", "drafter_of", "follower_of", "open_small_model"]


def drafter_of(context: DrafterContext, name: str, *, own_tokenizer: bool = True) -> Model:
    """Return the small model for method `name`; with `own_tokenizer` its tokenizer may be another than the target's.

    Raises: ConfigError when there is none, or none that serves.
    """
    model = context.model.draft_model
    if model is None:
        raise ConfigError(f"decoding method {name!r} {DRAFT_MODEL.lack}; {DRAFT_MODEL.remedy}")
    if not own_tokenizer and not has_same_tokenizer(context, model):
        raise ConfigError(
            f"decoding method {name!r} needs a small model with the tokenizer of the large one, which this is not; "
            "use model, which translates"
        )
    return model


def has_same_tokenizer(context: DrafterContext, model: Model) -> bool:
    """Return whether the two have the same tokens, but for some that the small model has no row for and no text has.

    Compared once for all texts.
    """
    target, own, num_rows = context.model.tokenizer, model.tokenizer, model.manifest.dimensions.vocab_size
    alike = context.shared.get(
        "drafter has the target's tokenizer",
        lambda: same_tokenizer(target, own) or same_but_for_rows(own, target, num_rows=num_rows),
    )
    return alike and max(context.sequence.token_ids, default=0) < num_rows


def follower_of(context: DrafterContext, model: Model) -> Follower:
    """Return a text of the small model that follows the target's."""
    vocab_size = context.model.manifest.dimensions.vocab_size
    return Follower(model, capacity=context.sequence.capacity, vocab_size=vocab_size)


NOTHING = Draft.empty()


class Follower:
    """Feeds a draft model, whose tokens are those of the target, with the target's text.

    Invariant: after `follow(history)` returned more than 0, `sequence` holds `history`, and its cache is that of a
    fresh prefill. What is drafted comes behind; of that, the next `follow` keeps what came true.
    """

    def __init__(self, model: Model, *, capacity: int, vocab_size: int) -> None:
        """`capacity` and `vocab_size` are those of the target; the drafter's context may be shorter."""
        self.sequence = model.new_sequence(context_length=min(capacity, model.manifest.context_length))
        self._vocab_size, self._num_rows = vocab_size, model.manifest.dimensions.vocab_size
        self._num_shared = 0
        self._fed: Draft | None = None  # since the last token was taken

    def follow(self, history: SequenceOf[int]) -> int:
        """Take over the text, which only grows; return how many guesses fit behind it, at least 0.

        A text that `can_follow` refuses is not taken over. Feeds nothing; cost: O(new tokens).
        """
        sequence = self.sequence
        if not self.can_follow(history):
            return 0
        own = sequence.token_ids
        same, end = self._num_shared, min(len(own), len(history))
        while same < end and own[same] == history[same]:
            same += 1
        if self._fed is not None and same == len(own) < len(history):
            new = history[same:]
            sequence.commit(new[: len(self._fed.path(new))])  # their rows are cached
            same = len(own)
        self._fed = None
        sequence.rollback(same)
        sequence.append(history[same:])
        self._num_shared = len(history)
        return sequence.steady_room

    def can_follow(self, history: SequenceOf[int]) -> bool:
        """Whether the draft model can read the text: it has room, and a row for each token."""
        if len(history) >= self.sequence.capacity:
            return False
        return self._num_rows >= self._vocab_size or max(history[self._num_shared :], default=0) < self._num_rows

    @property
    def token_ids(self) -> SequenceOf[int]:
        """The text and what was taken behind it."""
        return self.sequence.token_ids

    def logits(self, draft: Draft = NOTHING) -> NDArray[np.float32]:
        """Feed what is waiting and the draft; return logits [1 + N, V] of the target's V, valid until the next call."""
        logits = self.fit(self.sequence.extend(draft))
        self._fed = draft
        return logits

    def take(self, token_id: int) -> None:
        """Put a token behind the last one, whose logits were asked for without a draft."""
        self.sequence.commit([token_id])
        self._fed = None

    def fit(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the drafter's logits for the target's tokens only: paddings of the two vocabularies may differ."""
        missing = self._vocab_size - logits.shape[1]
        if missing > 0:
            return np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)
        return logits[:, : self._vocab_size]


class SmallModel:
    """Reads a text on and says what follows; it reads nothing before it is asked.

    Its cache is that of a fresh prefill of all but the last token it was asked about.
    """

    def __init__(self, text: Follower, *, num_layers: int) -> None:
        self._text, self.num_layers = text, num_layers

    @property
    def capacity(self) -> int:
        """How many tokens it can see."""
        return self._text.sequence.capacity

    def logits(self, history: Sequence[int]) -> NDArray[np.float32] | None:
        """Return logits [V] for what follows a text, valid until the next call; None for one that it cannot read.

        Cost: one call, of all tokens that it has not seen.
        """
        if not self._text.can_follow(history):
            return None
        self._text.follow(history)
        row: NDArray[np.float32] = self._text.logits()[0]
        return row


def open_small_model(context: ApproximateContext, name: str) -> SmallModel:
    """Return the small model for one text of method `name`.

    Raises: ConfigError when there is none, or its tokenizer is another than that of the large one.
    """
    inner = as_drafter_context(context)
    model = drafter_of(inner, name, own_tokenizer=False)
    return SmallModel(follower_of(inner, model), num_layers=model.manifest.dimensions.num_layers)


def as_drafter_context(context: ApproximateContext) -> DrafterContext:
    """Return what a drafter may use of an approximate text: chains, verified by `match`."""
    model = context.model
    return DrafterContext(
        model=model, sampler=context.sampler, sequence=context.sequence, shared=model.shared, trees=False
    )

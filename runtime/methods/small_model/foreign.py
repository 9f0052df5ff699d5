"""A draft model whose tokenizer is not the target's: it drafts in tokens of its own, and text is what they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, level_of
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods.method import DrafterContext
from skipstone.runtime.methods.small_model.follower import drafter_of
from skipstone.runtime.methods.small_model.mirror import Mirror
from skipstone.runtime.sampling import Picker, Picks, picker_for, relative_probabilities
from skipstone.runtime.text import SharedVocabulary, Spelling, whole_characters

__all__ = ["ForeignDrafter", "open_foreign"]

NOTHING = Draft.empty()
MOST_DRAFTED = 8
# Where less of the drafter's probability lies on shared tokens, what is drawn from them says little.
LEAST_SHARE = 0.5


class ForeignDrafter(Drafter):
    """Drafts with a model that has another vocabulary, in one of two ways.

    By text (SLEM, string-level exact match): what the model drafts is decoded, encoded with the target's tokenizer and
    verified by `match`. Tokens that both vocabularies have are chosen as the target would choose them, with the noise
    of the position: any choice is sound there, and this one agrees most often. At a row whose best token is not shared,
    that one is taken.

    By token (TLI, token-level intersection): guesses are drawn from the model's law on the shared tokens, renormalised,
    with the target's processors: `Draft.laws`. It is chosen where the rule is `rejection` and the text not greedy.

    Levels are deciles of confidence. By token it is the largest chance in the law, known before the draw: who leaves
    guesses out by level must not choose among draws.

    Source: Timor et al., Accelerating LLM inference with lossless speculative decoding algorithms for heterogeneous
    vocabularies (2025). Cost: at most `MOST_DRAFTED` calls of the drafter, and a few passes over V for each.
    """

    name = "model"

    def __init__(
        self, mirror: Mirror, picker: Picker, *, target: Spelling, own: Spelling, shared: SharedVocabulary, draws: bool
    ) -> None:
        """`draws`: draft by token, with laws; else by text."""
        self._mirror, self._picker, self._draws = mirror, picker, draws
        self._target, self._own, self._shared = target, own, shared

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        """Return a chain; empty while the drafter cannot be brought into step with the text.

        It ends before the guess at which the product of the drafter's chances falls below `min_chance`.
        """
        if not self._mirror.follow(history):
            return Draft.empty()
        self._picker.start(len(history))
        draft = self._draft_by_token if self._draws else self._draft_by_text
        return draft(history, limit, min_chance)

    def _draft_by_text(self, history: Sequence[int], limit: int, min_chance: float) -> Draft:
        sequence, product, ends = self._mirror.sequence, 1.0, False
        chances: list[float] = []
        coming: list[int] = []
        # The last token of the target is dropped unless the text ends there, so one more is drafted.
        while len(chances) < min(limit + 1, MOST_DRAFTED) and sequence.room > 0:
            token_id, chance = self._choose(sequence.extend(NOTHING)[0], [*history, *coming])
            product *= chance
            ends = not self._own.of(token_id)
            if ends or product < min_chance:
                break
            sequence.commit([token_id])
            chances.append(chance)
            target_id = self._shared.target_id.get(token_id)
            coming = self._retell(history) if target_id is None else [*coming, target_id]
        coming = self._retell(history)
        coming = coming[:limit] if ends else coming[:-1][:limit]
        return Draft.chain(coming, source=self.name, levels=self._levels(coming, chances))

    def _choose(self, logits: NDArray[np.float32], history: Sequence[int]) -> tuple[int, float]:
        """Return one of the drafter's tokens and the chance that it comes."""
        likeliest = int(logits.argmax())
        if likeliest in self._shared.target_id:
            with suppress(ConfigError):  # a processor bans every shared token: no chance is left to compare
                picks = self._picker.pick(self._shared.to_target(logits), history, 1)
                return self._shared.drafter_id[picks.token_ids[0]], picks.confidences[0]
        return likeliest, 1.0 / float(relative_probabilities(logits).sum(dtype=np.float64))

    def _retell(self, history: Sequence[int]) -> list[int]:
        """Return what was drafted in the target's tokens, up to the first broken character."""
        return self._target.continuation(history, whole_characters(self._own.join(self._drafted())))

    def _drafted(self) -> list[int]:
        return self._mirror.sequence.token_ids[self._mirror.num_told :]

    def _levels(self, coming: Sequence[int], chances: Sequence[float]) -> list[int]:
        """Return the level of each token: that of the drafter's tokens that begin in it together, 9 where none does."""
        begins = accumulate((len(self._own.of(token_id)) for token_id in self._drafted()), initial=0)
        ahead = deque(zip(begins, chances, strict=False))
        levels, end = [], 0
        for token_id in coming:
            end += len(self._target.of(token_id))
            chance = 1.0
            while ahead and ahead[0][0] < end:
                chance *= ahead.popleft()[1]
            levels.append(level_of(chance))
        return levels

    def _draft_by_token(self, history: Sequence[int], limit: int, min_chance: float) -> Draft:
        sequence, product = self._mirror.sequence, 1.0
        token_ids: list[int] = []
        levels: list[int] = []
        laws: list[NDArray[np.float64] | None] = []
        while len(token_ids) < min(limit, MOST_DRAFTED) and sequence.room > 0:
            picks = self._draw(sequence.extend(NOTHING)[0], [*history, *token_ids])
            # The confidence does not know what was drawn, so this leaves out a row and does not choose among draws.
            if picks is None or (product := product * picks.confidences[0]) < min_chance:
                break
            token_ids += picks.token_ids
            levels.append(level_of(picks.confidences[0]))
            laws.append(picks.law)
            sequence.commit([self._shared.drafter_id[token_ids[-1]]])
        parents = tuple(range(len(token_ids)))
        return Draft(tuple(token_ids), self.name, parents, tuple(levels), (*laws, None) if laws else ())

    def _draw(self, logits: NDArray[np.float32], history: Sequence[int]) -> Picks | None:
        """Return a guess and its law [target's V]; None where shared tokens are too unlikely, or all banned."""
        if self._shared.share(relative_probabilities(logits)) < LEAST_SHARE:
            return None
        try:
            return self._picker.pick(self._shared.to_target(logits), history, 1)
        except ConfigError:
            return None


def open_foreign(context: DrafterContext) -> ForeignDrafter:
    """Return a drafter for one text from the bundle's draft model, whatever its tokenizer.

    Raises: ConfigError when there is no draft model, when one of the tokenizers is of an unknown kind, for the rule
    k-seq unless the text is greedy, and for the rule rejection when the two share no token.
    """
    model = drafter_of(context, ForeignDrafter.name)
    draws = context.rule != "match" and not context.sampler.greedy
    if draws and context.rule == "k-seq":
        raise ConfigError(
            "a draft model with another tokenizer draws one chain, where k-seq needs several; "
            "choose the rule rejection or match"
        )
    target = context.shared.get("target spelling", lambda: Spelling(context.model.tokenizer))
    own = context.shared.get("drafter spelling", lambda: Spelling(model.tokenizer))
    sizes = {"target_size": _vocab_size(context.model), "drafter_size": _vocab_size(model)}
    shared = context.shared.get("shared vocabulary", lambda: SharedVocabulary.of(target, own, **sizes))
    if draws and not len(shared):
        raise ConfigError("the target and its draft model have no token in common; choose the rule match")
    # Where the drafter cuts text finer than the target, the same text takes more tokens.
    room = min(model.manifest.context_length, 2 * context.sequence.capacity)
    sequence = model.new_sequence(context_length=room)
    mirror = Mirror(sequence, target=target, own=own, shared=shared if draws else None)
    picker = picker_for(context.sampler, context.rule)
    return ForeignDrafter(mirror, picker, target=target, own=own, shared=shared, draws=draws)


def _vocab_size(model: Model) -> int:
    return model.manifest.dimensions.vocab_size

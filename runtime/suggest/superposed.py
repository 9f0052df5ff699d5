"""Superposed drafts: one model call for each token of k drafts, fed a blend of their last tokens.

Shapes: k drafts, N tokens that the model's law keeps, V vocabulary, T tokens of a draft with what stands before it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Blends, Draft, Sequence
from skipstone.runtime.sampling import first_in_order
from skipstone.runtime.suggest.mixing import ORDER_WEIGHTS, UNSEEN_PENALTY, Mixing, mixing_for
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.text import LONGEST_CONTEXT, NgramStore

__all__ = ["Superposition", "kept_tokens", "superposed"]

_ORDER_WEIGHTS = np.array(ORDER_WEIGHTS, np.float32)


def superposed(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
    """Write k drafts in one pass; n-grams of the user's texts tell which token follows in which; approximate.

    The model reads one blend for all drafts, so its one answer is a mixture of what follows each. Without n-grams all
    drafts get the same law: they are the likeliest paths through the laws of all steps, and differ in few tokens. The
    score of a draft is its mean log score under model and n-grams; it compares drafts of one call only. Where positions
    change, drafts end sooner.

    Source: Superposed Decoding (Shen et al., 2024).
    """
    request.require_greedy("superposed")
    request.require_no_processors("superposed")
    prompt = list(sequence.token_ids)
    mixing = mixing_for(request.num_drafts, num_prompt_tokens=len(prompt))
    drafts = Superposition(prompt, request.num_drafts, mixing=mixing, ngrams=request.ngrams, stop_ids=request.stop_ids)
    sampler = request.sampler(0, num_prompt_tokens=len(prompt))
    sequence.require_room(request.max_new_tokens - 1)
    try:
        logits = sequence.extend(Draft.empty())
        num_tokens = min(request.max_new_tokens, 1 + sequence.steady_room)
        yield
        for _ in range(num_tokens - 1):
            drafts.grow(sampler.processed(logits[0], prompt))
            if not drafts.has_growing:
                break
            logits = sequence.extend_by_blends(drafts.blend())
            yield
        else:
            drafts.grow(sampler.processed(logits[0], prompt))
    finally:
        sequence.rollback(len(prompt))
    return request.suggestions(prompt, drafts.scored())


def kept_tokens(
    logits: NDArray[np.float32], *, temperature: float, num: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the `num` likeliest tokens, best first, and their log probabilities among themselves at a temperature.

    The rest of the vocabulary is looked at once, and needs no exponential.
    """
    token_ids = first_in_order(-logits, num)
    scaled = logits[token_ids].astype(np.float64) / temperature
    return token_ids, scaled - scaled[0] - np.log(np.exp(scaled - scaled[0]).sum())


class Superposition:
    """k drafts that grow by a token at a time from one law, and what has ended of them.

    At first there is one draft of no tokens, for all are equal. `scores` [k] are sums of log scores, the best first.
    """

    def __init__(
        self,
        prompt: SequenceOf[int],
        num_drafts: int,
        *,
        mixing: Mixing,
        ngrams: NgramStore | None = None,
        stop_ids: Collection[int] = (),
    ) -> None:
        self._num_drafts, self._ngrams, self._stop_ids = num_drafts, ngrams, frozenset(stop_ids)
        self._mixing = mixing if ngrams is not None else mixing.alone()
        tail = list(prompt[-LONGEST_CONTEXT:])
        self._num_before = len(tail)
        self._texts = np.asarray([tail], np.int64)  # [k, T]
        self.scores = np.zeros(1)
        self._ended: list[tuple[tuple[int, ...], float]] = []

    @property
    def has_growing(self) -> bool:
        return len(self.scores) > 0

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """The tokens of the drafts that grow [k, T]."""
        return self._texts[:, self._num_before :]

    def grow(self, logits: NDArray[np.float32]) -> None:
        """Add a token to each draft, by the law [V] that they share: 2k candidates, of which the k best go on."""
        token_ids, logprobs = kept_tokens(logits, temperature=self._mixing.temperature, num=self._mixing.num_kept)
        scores = self.scores[:, None] + self.log_scores(token_ids, logprobs)
        best = np.argsort(-scores, axis=None, kind="stable")[: 2 * self._num_drafts]
        parents, columns = np.divmod(best, len(token_ids))
        texts = np.concatenate([self._texts[parents], token_ids[columns][:, None]], axis=1)
        scores = scores.ravel()[best]
        ends = [token_id in self._stop_ids for token_id in texts[:, -1].tolist()]
        if any(ends):
            self._end(texts[ends], scores[ends])
            texts, scores = texts[np.invert(ends)], scores[np.invert(ends)]
        self._texts, self.scores = texts[: self._num_drafts], scores[: self._num_drafts]

    def log_scores(self, token_ids: NDArray[np.int64], logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each kept token [N] adds to each draft: the model's law and that of the n-grams, mixed [k, N].

        A token that no n-gram knows would have -inf; it has the penalty that the paper gives where none is known. So it
        only comes in where known tokens are too few for k drafts.
        """
        alpha = self._mixing.alpha
        if self._ngrams is None:
            return np.broadcast_to(logprobs, (len(self.scores), len(logprobs)))
        shares = self._ngrams.shares(self._texts[:, -LONGEST_CONTEXT:], token_ids)
        known = _ORDER_WEIGHTS[: shares.shape[1]] @ shares
        with np.errstate(divide="ignore"):
            by_ngrams = np.where(known > 0, alpha * np.log(known), -UNSEEN_PENALTY)
        return (1 - alpha) * logprobs + by_ngrams

    def blend(self) -> Blends:
        """Return the last tokens of the drafts as one position, each by its share of the scores.

        There are always k tokens, so that the calls of all steps have one shape.
        """
        num_growing = len(self.scores)
        token_ids, weights = np.zeros((1, self._num_drafts), np.int64), np.zeros((1, self._num_drafts))
        token_ids[0, :num_growing] = self._texts[:, -1]
        weights[0, :num_growing] = np.exp(self.scores - self.scores[0])
        return Blends.of(token_ids, weights / weights.sum())

    def scored(self) -> Iterator[tuple[list[int], float]]:
        """Yield the tokens of each draft and its mean log score."""
        for token_ids, score in zip(self.token_ids.tolist(), self.scores.tolist(), strict=True):
            yield token_ids, score / len(token_ids)
        for ended_ids, mean in self._ended:
            yield list(ended_ids), mean

    def _end(self, texts: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Keep the k best of the drafts that ended."""
        for text, score in zip(texts[:, self._num_before :].tolist(), scores.tolist(), strict=True):
            self._ended.append((tuple(text), score / len(text)))
        self._ended = sorted(self._ended, key=lambda draft: -draft[1])[: self._num_drafts]

"""How a text begins whose prompt ends inside a word: one way to spell the prompt's end is taken, and may say more.

Source: byte-token representation (Phan et al., 2024): a cover is as likely as its tokens behind the border are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.generation.judge import Path, rows_behind
from skipstone.runtime.sampling import SamplingOptions, draft_seed, first_in_order, gumbel, relative_probabilities
from skipstone.runtime.text import Border, Borders

__all__ = ["Beginning", "Covers", "begin", "borders_of", "judge_covers"]

MOST_TRIED: Final = 256  # covers, the likeliest first; nearly always it is the first or second that is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What stands in a sequence in place of the prompt's last tokens.

    `given` are the tokens behind the `border` that only spell the prompt, and `made`, none or one, says more than it
    does. The prompt says the first `num_hidden` letters of these tokens. `logprob` is that of the whole cover, where
    the prompt's bytes are given; `logits` [1, V] are those before its last token. `covers` are all that there were.
    """

    border: Border
    covers: Covers
    given: Path
    made: Path
    num_hidden: int
    logprob: float
    logits: NDArray[np.float32]
    seconds: float

    @property
    def start(self) -> int:
        """How many tokens of the prompt stay."""
        return self.border.start

    @property
    def num_prompt_tokens(self) -> int:
        return self.start + len(self.given)

    def steps(self) -> list[Step]:
        """Return the step that made the first token; none where the text begins behind the prompt's tokens."""
        if not self.made:
            return []
        step = Step(
            list(self.made),
            self.logits,
            num_drafted=0,
            num_accepted=0,
            drafter="plain",
            draft_s=0.0,
            model_s=self.seconds,
            accept_s=0.0,
        )
        return [step]


def begin(
    model: Model,
    sequence: Sequence,
    sampling: SamplingOptions,
    *,
    max_new_tokens: int,
    known: Beginning | None = None,
) -> Beginning | None:
    """Take the prompt's last tokens back to a border and let the sequence hold a cover of them; None: it stays.

    The likeliest cover when greedy, else one drawn by the seed, as likely as it is. The text has room for
    `max_new_tokens`, and still has. `known` is what came of the same prompt before, whose scores are then taken.
    Raises: ConfigError for a vocabulary without borders.
    """
    start, lead = perf_counter(), _lead(model)
    border = known.border if known else borders_of(model).find(sequence.token_ids, least=0 if lead is not None else 1)
    if border is None:
        return None
    most = len(border.tail) + sequence.room - max_new_tokens
    before = sequence.token_ids[border.start - 1] if border.start else None
    sequence.rollback(border.start)
    try:
        if known is not None and max(map(len, known.covers.lefts)) < most:
            covers = known.covers
        else:
            covers = judge_covers(sequence, border, lead=lead, most=most, banned_ids=sampling.banned_ids)
    except BaseException:
        sequence.append(border.tail)
        raise
    left, right, logprob = covers.choose(border, sampling)
    sequence.append([*left, right])
    is_beyond = border.is_beyond(left, right)
    return Beginning(
        border=border,
        covers=covers,
        given=left if is_beyond else (*left, right),
        made=(right,) if is_beyond else (),
        num_hidden=border.num_letters(before),
        logprob=logprob,
        logits=covers.rows[left][None],
        seconds=perf_counter() - start,
    )


def borders_of(model: Model) -> Borders:
    """Return what finds borders for this model, kept with it. Raises: ConfigError for a vocabulary without borders."""
    size = model.manifest.dimensions.vocab_size
    return model.shared.get("borders", lambda: Borders(model.tokenizer, size=size))


def _lead(model: Model) -> int | None:
    """Return the token behind which the first token of a text is judged: it begins texts, or ends the one before."""
    manifest = model.manifest
    return next(iter(manifest.stop_ids), None) if manifest.bos_id is None else manifest.bos_id


@dataclass(frozen=True, slots=True)
class Covers:
    """What may stand behind a border: candidate i is `lefts[of_left[i]]` and then `rights[i]`, with its `scores[i]`.

    A score is the log probability of all tokens of the candidate; `rows` are the logits [V] behind each left.
    """

    lefts: tuple[Path, ...]
    of_left: NDArray[np.int64]
    rights: NDArray[np.int64]
    scores: NDArray[np.float64]
    rows: dict[Path, NDArray[np.float32]]

    def choose(self, border: Border, sampling: SamplingOptions) -> tuple[Path, int, float]:
        """Return a cover and its log probability among all candidates: the likeliest, or one that is drawn.

        Candidates that are no covers are passed over, so the draw is one among the covers alone.
        """
        for cover in self._in_order(border, self._keys(border, sampling)):
            return cover
        left, right = border.tail[:-1], border.tail[-1]
        place = np.flatnonzero((self.rights == right) & (self.of_left == self.lefts.index(left)))[0]
        return left, right, float(self.scores[place] - np.logaddexp.reduce(self.scores))

    def likeliest(self, border: Border, num: int) -> list[tuple[Path, int, float]]:
        """Return the best covers that go beyond the prompt, each with its log probability."""
        covers = self._in_order(border, self.scores)
        return list(islice((cover for cover in covers if border.is_beyond(*cover[:2])), num))

    def _in_order(self, border: Border, keys: NDArray[np.float64]) -> Iterator[tuple[Path, int, float]]:
        """Yield covers and their log probabilities, those with the largest keys first."""
        total = np.logaddexp.reduce(self.scores)
        for place in first_in_order(-keys, MOST_TRIED):
            left, right = self.lefts[self.of_left[place]], int(self.rights[place])
            if self.scores[place] > -np.inf and border.is_cover(left, right):
                yield left, right, float(self.scores[place] - total)

    def _keys(self, border: Border, sampling: SamplingOptions) -> NDArray[np.float64]:
        if sampling.greedy:
            return self.scores
        seed, noise = draft_seed(sampling.seed or 0, border.start), np.empty(len(self.scores))
        for number in range(len(self.lefts)):
            places = self.of_left == number
            noise[places] = gumbel(seed, number, self.rights[places])
        keys: NDArray[np.float64] = self.scores / sampling.temperature + noise
        return keys


def judge_covers(
    sequence: Sequence, border: Border, *, lead: int | None, most: int, banned_ids: Collection[int] = ()
) -> Covers:
    """Return the candidates of at most `most` tokens, by the full model; the sequence ends at the border, and stays.

    At the start of a text they are judged behind `lead`.
    """
    lefts = tuple(sorted(left for left in border.rights if len(left) < most))
    paths = sorted({left[:length] for left in lefts for length in range(len(left) + 1)})
    chances: dict[Path, float] = {(): 0.0}
    rows: dict[Path, NDArray[np.float32]] = {}
    parts: dict[Path, NDArray[np.float64]] = {}
    if not border.start:
        assert lead is not None, "without one there is no border at the start"
        sequence.append([lead])
    for path, row in rows_behind(sequence, paths, source="border"):
        weights = relative_probabilities(row)
        base = chances[path] - float(row.max()) - float(np.log(weights.sum(dtype=np.float64)))
        for child in paths:
            if child[:-1] == path and child:
                chances[child] = base + float(row[child[-1]])
        if path in border.rights and len(path) < most:
            ids = border.rights[path]
            parts[path] = row[ids].astype(np.float64) + base
            parts[path][np.isin(ids, list(banned_ids))] = -np.inf
            rows[path] = row.copy()
    sequence.rollback(border.start)
    return Covers(
        lefts=lefts,
        of_left=np.repeat(np.arange(len(lefts)), [len(parts[left]) for left in lefts]),
        rights=np.concatenate([border.rights[left] for left in lefts]),
        scores=np.concatenate([parts[left] for left in lefts]),
        rows=rows,
    )

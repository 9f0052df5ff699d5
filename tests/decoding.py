"""What tests of the verifying loop share: the slow way to a text, a checked run, and drafters good and bad."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.runtime.decoding import Drafter, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods.depth import SkipSet
from skipstone.runtime.sampling import Sampler, SamplingOptions


def leaning(token_ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """A processor of a user's that depends on the whole text: it bans every third token, others after each text."""
    logits[int(token_ids.sum()) % 3 :: 3] = -np.inf
    logits[(token_ids[-1] * 7) % len(logits)] += 2.0
    return logits


PROMPT = (1, 50, 60, 70)
VOCAB_SIZE = 307
GREEDY = SamplingOptions()
OPTIONS = (
    GREEDY,
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.5, top_k=20, top_p=0.9, seed=4),
    # These look back at the text, so they show whether drafted positions see the right history.
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
    SamplingOptions(repetition_penalty=2.0, frequency_penalty=0.7),
    SamplingOptions(processors=(leaning,)),
    SamplingOptions(processors=(leaning,), temperature=1.0, top_k=30, seed=6),
)


def sampler_for(options: SamplingOptions, stop_ids: Collection[int] = ()) -> Sampler:
    return Sampler.from_options(options, stop_ids=stop_ids, num_prompt_tokens=len(PROMPT))


def plain_text(model: Model, options: SamplingOptions, num_tokens: int, stop_ids: Collection[int] = ()) -> list[int]:
    """The slow obvious way: the whole text through a new sequence for every token."""
    sampler, text = sampler_for(options, stop_ids), list(PROMPT)
    for _ in range(num_tokens):
        sequence = model.new_sequence()
        sequence.append(text)
        text.append(sampler.choose(sequence.extend(Draft.empty())[0], text))
        if text[-1] in stop_ids:
            break
    return text


def leave_out(model: Model, *layers: int) -> Model:
    """Return the model, for which it is now known that drafts leave out these layers."""
    known = SkipSet(
        num_tokens=2048,
        layers=layers,
        agreement=0.8,
        guess_cost=0.5,
        speed_up=1.1,
        length=2,
    )
    assert model.shared.get("skip set", lambda: known) == known
    return model


def cached_rows(sequence: Sequence) -> list[NDArray[np.float32]]:
    """Return keys and values [1, K, T, D] of the cached tokens, layer by layer."""
    return [buffer.read()[:, :, : sequence.num_cached].copy() for buffer in sequence.cache]


def run(
    model: Model,
    drafter: Drafter,
    *,
    options: SamplingOptions = GREEDY,
    max_new_tokens: int = 16,
    stop_ids: Collection[int] = (),
    context_length: int | None = None,
) -> tuple[list[int], list[Step]]:
    """Return the whole text and the steps; checks what holds for any drafter."""
    sequence = model.new_sequence(context_length=context_length)
    sequence.append(PROMPT)
    steps = []
    made: list[int] = []
    for step in decode(
        sequence,
        drafter=drafter,
        accept=match(sampler_for(options, stop_ids), sequence.token_ids),
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
    ):
        sequence.check()
        made += step.token_ids
        assert sequence.token_ids == [*PROMPT, *made]
        assert all(type(token_id) is int for token_id in made)
        assert step.num_accepted <= step.num_drafted
        num_own = len(step.token_ids) - step.num_accepted
        assert num_own == 1 or (num_own == 0 and step.token_ids[-1] in stop_ids)
        assert len(step.logits) >= len(step.token_ids)
        assert min(step.draft_s, step.model_s, step.accept_s) >= 0
        steps.append(step)
    return sequence.token_ids, steps


# Drafts


def grown(places: Iterable[tuple[int, int]], *, source: str = "random") -> Draft:
    """Return a tree of guesses, each with a number that picks its parent from the rows so far; repeats are left out."""
    found: list[tuple[int, int]] = []
    for place, token_id in places:
        guess = (place % (1 + len(found)), token_id)
        if guess not in found:
            found.append(guess)
    return Draft(tuple(token_id for _, token_id in found), source, tuple(parent for parent, _ in found))


def trees(*, max_size: int = 8, token_ids: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[Draft]:
    """Return any drafts, empty ones and chains among them."""
    tokens = st.integers(0, VOCAB_SIZE - 1) if token_ids is None else token_ids
    return st.lists(st.tuples(st.integers(0, max_size), tokens), max_size=max_size).map(grown)


def path_to(draft: Draft, row: int) -> list[int]:
    """Return the guesses that lead from the pending token to a row, its own the last."""
    path: list[int] = []
    while row:
        path.insert(0, draft.token_ids[row - 1])
        row = draft.parents[row - 1]
    return path


# Drafters


@dataclass
class ScriptedDrafter(Drafter):
    """Guesses by a plan: at each step so many tokens of the truth, then so many that are wrong."""

    truth: SequenceOf[int]
    plan: Iterator[tuple[int, int]]
    name: str = "scripted"
    limits: list[int] = field(default_factory=list)

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        assert list(history) == list(self.truth[: len(history)])
        self.limits.append(limit)
        num_right, num_wrong = next(self.plan, (0, 0))
        coming = self.truth[len(history) : len(history) + num_right + num_wrong]
        guesses = [*coming[:num_right], *((token_id + 1) % VOCAB_SIZE for token_id in coming[num_right:])]
        return Draft.chain(guesses[:limit], source=self.name)


class WildDrafter(Drafter):
    """Guesses at random, with some of the truth in between; asked the same again, it guesses something else."""

    name = "wild"

    def __init__(self, truth: SequenceOf[int], seed: int, *, branches: bool, share: float = 0.5) -> None:
        """`share` of the guesses that could be right are; `branches`: whether drafts are trees."""
        self._truth, self._branches, self._share = truth, branches, share
        self._random = np.random.default_rng(seed)

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        coming, places = [*self._truth[len(history) :]], list[tuple[int, int]]()
        tip = 0  # the row of the last right guess
        for row in range(1, 1 + int(self._random.integers(0, min(limit, 9) + 1))):
            is_right = bool(coming) and self._random.random() < self._share and (self._branches or tip == row - 1)
            parent = row - 1 if not self._branches else tip if is_right else int(self._random.integers(0, row))
            token_id = coming[0] if is_right else int(self._random.integers(0, VOCAB_SIZE))
            if (parent, token_id) in places:
                continue
            places.append((parent, token_id))
            if parent == tip and coming and token_id == coming[0]:
                tip = len(places)
                coming.pop(0)
        return grown(places, source=self.name) if places else Draft.empty()


def fail(*_: object) -> Any:
    raise RuntimeError("out of order")


def untyped(*fields: Any) -> Any:
    """Return a draft of whatever stands in `fields`."""
    return Draft(*fields)


MISDEEDS: Mapping[str, Callable[[int], Any]] = MappingProxyType(
    {
        "raises": fail,
        "guesses more than it may": lambda limit: Draft.chain([3] * (limit + 1), source="x"),
        "guesses a token that is not there": lambda limit: Draft.chain([VOCAB_SIZE], source="x"),
        "guesses a negative token": lambda limit: Draft.chain([-1], source="x"),
        "guesses a word": lambda limit: untyped(("def",), "x", (0,)),
        "gives nothing": lambda limit: None,
        "gives a list": lambda limit: [3, 4],
        "has a parent that comes later": lambda limit: Draft((3, 4), "x", (0, 2)),
        "has a negative parent": lambda limit: Draft((3, 4), "x", (0, -1)),
        "has a parent that is no number of a row": lambda limit: untyped((3, 4), "x", (0, 0.0)),
        "has too few parents": lambda limit: Draft((3, 4), "x", (0,)),
        "has no parents": lambda limit: untyped((3, 4), "x", None),
        "has equal siblings": lambda limit: Draft((3, 3), "x", (0, 0)),
    }
)
"""What a drafter may do wrong when it is asked for `limit` tokens, of which there is at least one."""

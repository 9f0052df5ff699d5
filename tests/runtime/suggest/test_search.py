"""Beam, diverse and contrastive search against the slow, obvious versions: every text is fed alone, from its start."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.suggest import Suggestion, SuggestRequest, Way
from skipstone.runtime.suggest.beam import Beam, expand, is_settled
from skipstone.runtime.suggest.branch import branch
from skipstone.runtime.suggest.contrast import contrast
from skipstone.runtime.suggest.diverse import diverse

PROMPT = "class Sequence:"
Ids = tuple[int, ...]


def prompted(model: Model, token_ids: Ids = ()) -> Sequence:
    sequence = model.new_sequence()
    sequence.append([*model.tokenizer.encode(PROMPT), *token_ids])
    return sequence


def law_after(model: Model, token_ids: Ids, allowed: Ids | None = None) -> NDArray[np.float64]:
    """Return log probabilities [V] of what follows, of allowed tokens only."""
    row = prompted(model, token_ids).extend(Draft.empty())[0].astype(np.float64)
    if allowed is not None:
        row[np.setdiff1d(np.arange(len(row)), allowed)] = -np.inf
    return row - np.logaddexp.reduce(row)


def run(model: Model, way: Way, **options: Any) -> list[Suggestion]:
    steps = way(prompted(model), LanguageModel(model).suggest_request(**options))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return list(end.value)


def assert_same(found: list[Suggestion], wanted: dict[Ids, float]) -> None:
    assert {suggestion.token_ids for suggestion in found} == set(wanted)
    for suggestion in found:
        assert suggestion.score == pytest.approx(wanted[suggestion.token_ids], abs=1e-4)


def test_a_beam_as_wide_as_all_texts_finds_the_best_of_them(tiny: Model) -> None:
    allowed, size = (20, 30, 40, 50), 3
    law = functools.cache(lambda token_ids: law_after(tiny, token_ids, allowed))
    scores = {
        text: sum(law(text[:place])[token_id] for place, token_id in enumerate(text)) / size
        for text in itertools.product(allowed, repeat=size)
    }
    best = dict(sorted(scores.items(), key=lambda item: -item[1])[:16])
    vocab_size = tiny.manifest.dimensions.vocab_size
    banned = tuple(token_id for token_id in range(vocab_size) if token_id not in allowed)
    found = LanguageModel(tiny).suggest(PROMPT, num_drafts=16, max_new_tokens=size, method="beam", banned_ids=banned)
    assert_same(found, best)


def beams_by_hand(model: Model, width: int, size: int) -> dict[Ids, float]:
    beams: dict[Ids, float] = {(): 0.0}
    for _ in range(size):
        longer = {
            (*beam, token_id): total + logprob
            for beam, total in beams.items()
            for token_id, logprob in enumerate(law_after(model, beam))
        }
        beams = dict(sorted(longer.items(), key=lambda item: -item[1])[:width])
    return {beam: total / size for beam, total in beams.items()}


@pytest.mark.parametrize("width", [1, 2, 4])
def test_beams_are_those_of_the_obvious_search(model: Model, width: int) -> None:
    found = LanguageModel(model).suggest(PROMPT, num_drafts=width, max_new_tokens=5, method="beam")
    assert_same(found, beams_by_hand(model, width, 5))


def test_a_beam_that_ends_is_kept_and_one_that_cannot_win_ends_the_search(tiny: Model) -> None:
    allowed, stop_id, size = (20, 30, 40), 40, 4
    request = SuggestRequest(tokenizer=tiny.tokenizer, num_drafts=27, max_new_tokens=size, stop_ids=(stop_id,))
    law = functools.cache(lambda token_ids: law_after(tiny, token_ids))
    texts = [
        text
        for length in range(1, size + 1)
        for text in itertools.product(allowed, repeat=length)
        if stop_id not in text[:-1] and (length == size or text[-1] == stop_id)
    ]
    scores = {text: sum(law(text[:place])[t] for place, t in enumerate(text)) / len(text) for text in texts}
    beams, ended = [Beam()], list[Beam]()
    while beams:
        rows = np.full((len(beams), 307), -np.inf, np.float32)
        for row, beam in zip(rows, beams, strict=True):
            row[list(allowed)] = law(beam.token_ids)[list(allowed)]
        grown = expand(beams, rows, [1], request, width=27)
        ended += [beam for beam in grown if request.ends(beam.token_ids)]
        beams = [beam for beam in grown if not request.ends(beam.token_ids)]
    assert {beam.token_ids for beam in ended} == set(scores)
    open_beam, ended_beam = Beam((20, 30), -1.0), Beam((40,), -0.2)
    assert is_settled([open_beam], [ended_beam], request, width=1), "-1.0 over 4 tokens is the best it can become"
    assert not is_settled([open_beam], [ended_beam], request, width=2)
    assert not is_settled([Beam((20, 30), -0.7)], [ended_beam], request, width=1)


def groups_by_hand(model: Model, num_groups: int, size: int, diversity: float) -> dict[Ids, float]:
    texts: list[Ids] = [()] * num_groups
    for place in range(size):
        chosen: Counter[int] = Counter()
        for group, text in enumerate(texts):
            law = law_after(model, text)
            for token_id, count in chosen.items():
                law[token_id] -= diversity * count
            order = np.argsort(-law, kind="stable").tolist()
            if place == size - 1:
                order = [token_id for token_id in order if (*text, token_id) not in texts[:group]]
            texts[group] = (*text, order[0])
            chosen[order[0]] += 1
    laws = {text: [law_after(model, text[:place])[t] for place, t in enumerate(text)] for text in texts}
    return {text: float(np.mean(logprobs)) for text, logprobs in laws.items()}


@pytest.mark.parametrize("diversity", [0.0, 0.5, 3.0])
def test_groups_keep_from_the_tokens_of_those_before(model: Model, diversity: float) -> None:
    way = functools.partial(diverse, diversity=diversity)
    assert_same(run(model, way, num_drafts=3, max_new_tokens=4), groups_by_hand(model, 3, 4, diversity))


def test_groups_of_several_beams_are_beam_search_when_there_is_one(tiny: Model) -> None:
    (found,) = run(tiny, functools.partial(diverse, width=3), num_drafts=1, max_new_tokens=5)
    assert found == run(tiny, functools.partial(diverse, diversity=9.0, width=3), num_drafts=1, max_new_tokens=5)[0]
    assert found.score == pytest.approx(max(beams_by_hand(tiny, 3, 5).values()), abs=1e-4)


def contrast_by_hand(model: Model, num_drafts: int, size: int, alpha: float) -> set[Ids]:
    def ranked(text: Ids, count: int) -> list[int]:
        law, ranks = law_after(model, text), {}
        for token_id in np.argsort(-law, kind="stable")[:count].tolist():
            sequence = prompted(model, (*text, token_id))
            sequence.extend(Draft.empty())
            values = sequence.cache.values(slice(len(sequence.token_ids)))
            units = values / np.linalg.norm(values, axis=1, keepdims=True)
            ranks[token_id] = (1 - alpha) * np.exp(law[token_id]) - alpha * (units[:-1] @ units[-1]).max()
        return sorted(ranks, key=lambda token_id: -ranks[token_id])

    texts: list[Ids] = [(token_id,) for token_id in ranked((), max(4, num_drafts))[:num_drafts]]
    for _ in range(size - 1):
        texts = [(*text, ranked(text, 4)[0]) for text in texts]
    return set(texts)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_contrast_takes_what_is_likely_but_unlike(model: Model, alpha: float) -> None:
    found = run(model, functools.partial(contrast, alpha=alpha), num_drafts=3, max_new_tokens=4)
    assert {suggestion.token_ids for suggestion in found} == contrast_by_hand(model, 3, 4, alpha)
    for suggestion in found:
        logprobs = [law_after(model, suggestion.token_ids[:place])[t] for place, t in enumerate(suggestion.token_ids)]
        assert suggestion.score == pytest.approx(float(np.mean(logprobs)), abs=1e-4)


def test_contrast_without_alpha_is_branch(tiny: Model) -> None:
    options = {"num_drafts": 4, "max_new_tokens": 6}
    found = run(tiny, functools.partial(contrast, alpha=0.0), **options)
    assert [suggestion.token_ids for suggestion in found] == [s.token_ids for s in run(tiny, branch, **options)]

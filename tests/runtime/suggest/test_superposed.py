"""Superposed drafts: their arithmetic by hand and by a slow twin, and what they leave of the text they follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.suggest import SuggestRequest, suggest
from skipstone.runtime.suggest.mixing import Mixing, mixing_for
from skipstone.runtime.suggest.superposed import Superposition, superposed
from skipstone.runtime.text import NgramCounts, NgramStore

WithStopIds = Callable[[Model, Collection[int]], Model]
PROMPT = "def add(first, second):"
TEXTS = [[2, 0, 1], [2, 0, 1], [2, 0, 2], [2, 1]]
HALF = Mixing(alpha=0.5, temperature=1.0, num_kept=2)


def store_of(texts: list[list[int]]) -> NgramStore:
    counts = NgramCounts()
    for text in texts:
        counts.add(text)
    return counts.store(vocabulary="words")


def law(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


def drafts_of(state: Superposition) -> dict[tuple[int, ...], float]:
    return {tuple(token_ids): mean * len(token_ids) for token_ids, mean in state.scored()}


# The arithmetic by hand: tokens 0, 1, 2; two drafts; two kept tokens; alpha one half.
#
# Step 1. The model says 0.6, 0.3, 0.1. Kept are 0 and 1: 0.6 / 0.9 = 2/3 and 1/3. Behind token 2, the prompt, stood 0
#   three times and 1 once: lambda of order 2 is 0.01, so the n-grams say 0.01 * 3/4 = 0.0075 and 0.01 * 1/4 = 0.0025.
#   Scores: [0] log sqrt(2/3 * 0.0075) = log sqrt(0.005), [1] log sqrt(1/3 * 0.0025) = log sqrt(0.0025 / 3).
#   Weights of the blend: sqrt(0.005) to sqrt(0.0025 / 3), which is sqrt(6) to 1.
# Step 2. The model says 0.1, 0.72, 0.18. Kept are 1 and 2: 0.72 / 0.9 = 0.8 and 0.2. Behind 0, and behind 2 0, stood 1
#   twice and 2 once: (0.01 + 0.04) * 2/3 = 0.1 / 3 and (0.01 + 0.04) * 1/3 = 0.05 / 3. Behind 1 stood nothing: 200 off.
#   Scores: [0 1] log sqrt(0.005 * 0.8 * 0.1 / 3), [0 2] log sqrt(0.005 * 0.2 * 0.05 / 3),
#   [1 1] log sqrt(0.0025 / 3 * 0.8) - 200, [1 2] log sqrt(0.0025 / 3 * 0.2) - 200. The first two go on.
FIRST = {(0,): math.log(math.sqrt(0.005)), (1,): math.log(math.sqrt(0.0025 / 3))}
SECOND = {
    (0, 1): math.log(math.sqrt(0.005 * 0.8 * 0.1 / 3)),
    (0, 2): math.log(math.sqrt(0.005 * 0.2 * 0.05 / 3)),
    (1, 1): math.log(math.sqrt(0.0025 / 3 * 0.8)) - 200,
    (1, 2): math.log(math.sqrt(0.0025 / 3 * 0.2)) - 200,
}


def test_two_steps_of_a_toy_are_as_computed_by_hand() -> None:
    state = Superposition([2], 2, mixing=HALF, ngrams=store_of(TEXTS))
    state.grow(law(0.6, 0.3, 0.1))
    assert drafts_of(state) == pytest.approx(FIRST)
    blend, first_weight = state.blend(), math.sqrt(6) / (math.sqrt(6) + 1)
    assert blend.token_ids.tolist() == [[0, 1]]
    assert blend.weights[0] == pytest.approx([first_weight, 1 - first_weight])
    state.grow(law(0.1, 0.72, 0.18))
    assert drafts_of(state) == pytest.approx({ids: SECOND[ids] for ids in ((0, 1), (0, 2))})


def test_a_draft_that_ends_leaves_its_place_to_the_next() -> None:
    state = Superposition([2], 2, mixing=HALF, ngrams=store_of(TEXTS), stop_ids=[2])
    state.grow(law(0.6, 0.3, 0.1))
    state.grow(law(0.1, 0.72, 0.18))
    assert state.token_ids.tolist() == [[0, 1], [1, 1]]
    assert drafts_of(state) == pytest.approx(SECOND)


def test_when_all_candidates_end_no_draft_grows() -> None:
    state = Superposition([2], 2, mixing=HALF, stop_ids=[0, 1])
    state.grow(law(0.6, 0.3, 0.1))
    assert not state.has_growing
    # Without n-grams the temperature is 1 / (1 - 0.5), and the square root of 0.6 to that of 0.3 is that of 2 to 1.
    first = math.sqrt(2) / (math.sqrt(2) + 1)
    assert drafts_of(state) == pytest.approx({(0,): math.log(first), (1,): math.log(1 - first)})


# The slow twin


def shares(texts: list[list[int]], context: list[int], token_id: int) -> Iterator[float]:
    for length in range(1, min(len(context), 5) + 1):
        followers = [
            text[place]
            for text in texts
            for place in range(length, len(text))
            if text[place - length : place] == context[-length:]
        ]
        yield followers.count(token_id) / len(followers) if followers else 0.0


def slow_drafts(
    texts: list[list[int]], prompt: list[int], laws: list[np.ndarray], num_drafts: int, mixing: Mixing, stop_id: int
) -> dict[tuple[int, ...], float]:
    """Return the sums of log scores of all drafts by the steps of the paper, one token of one draft after the other."""
    growing: dict[tuple[int, ...], float] = {(): 0.0}
    ended: dict[tuple[int, ...], float] = {}
    for logits in laws:
        best = sorted(range(len(logits)), key=lambda token_id: -logits[token_id])[: mixing.num_kept]
        weights = {token_id: math.exp(float(logits[token_id]) / mixing.temperature) for token_id in best}
        candidates = {}
        for (ids, score), token_id in product(growing.items(), best):
            by_model = math.log(weights[token_id] / sum(weights.values()))
            known = sum(
                lam * share
                for lam, share in zip(
                    (0.01, 0.04, 0.15, 0.18, 0.12), shares(texts, [*prompt, *ids], token_id), strict=False
                )
            )
            by_ngrams = mixing.alpha * math.log(known) if known else -200.0
            candidates[(*ids, token_id)] = score + (1 - mixing.alpha) * by_model + by_ngrams
        taken = sorted(candidates.items(), key=lambda item: -item[1])[: 2 * num_drafts]
        ended |= {ids: score for ids, score in taken if ids[-1] == stop_id}
        ended = dict(sorted(ended.items(), key=lambda item: -item[1] / len(item[0]))[:num_drafts])
        growing = dict([item for item in taken if item[0][-1] != stop_id][:num_drafts])
    return growing | ended


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_drafts_are_those_of_the_slow_twin(seed: int, num_drafts: int, num_prompt_tokens: int) -> None:
    random = np.random.default_rng(seed)
    texts = [random.integers(0, 6, 40).tolist() for _ in range(3)]
    prompt = random.integers(0, 6, num_prompt_tokens).tolist()
    laws = [random.standard_normal(8).astype(np.float32) for _ in range(4)]
    mixing = Mixing(alpha=0.5, temperature=0.4, num_kept=5)
    state = Superposition(prompt, num_drafts, mixing=mixing, ngrams=store_of(texts), stop_ids=[5])
    for logits in laws:
        if state.has_growing:
            state.grow(logits)
    assert drafts_of(state) == pytest.approx(slow_drafts(texts, prompt, laws, num_drafts, mixing, 5))


# With a model


def prompted(model: Model, prompt: str = PROMPT) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(prompt))
    return sequence


def suggested(model: Model, ngrams: NgramStore | None = None, **options: int) -> list[tuple[tuple[int, ...], float]]:
    request = SuggestRequest(
        tokenizer=model.tokenizer,
        stop_ids=model.manifest.stop_ids,
        ngrams=ngrams,
        sampling=SamplingOptions(),
        **options,
    )
    sequence = prompted(model)
    prompt = list(sequence.token_ids)
    found = suggest(sequence, request, method="superposed")
    assert sequence.token_ids == prompt
    sequence.check()
    return [(suggestion.token_ids, suggestion.score) for suggestion in found]


@pytest.fixture(scope="module")
def ngrams(tiny: Model) -> NgramStore:
    texts = ["def add(first, second):\n    return first + second\n", "def add(first, third): pass"]
    return store_of([tiny.tokenizer.encode(text) for text in texts])


def test_one_draft_without_ngrams_is_the_greedy_text(model: Model) -> None:
    greedy, sequence = [], prompted(model)
    for _ in range(10):
        greedy.append(int(sequence.extend(Draft.empty())[0].argmax()))
        sequence.commit(greedy[-1:])
    ((token_ids, _),) = suggested(model, num_drafts=1)
    assert list(token_ids) == greedy


@pytest.mark.parametrize("num_drafts", [2, 3, 8])
def test_drafts_are_distinct_and_sorted(model: Model, ngrams: NgramStore, num_drafts: int) -> None:
    for store in (None, ngrams):
        found = suggested(model, store, num_drafts=num_drafts, max_new_tokens=6)
        assert len({token_ids for token_ids, _ in found}) == num_drafts
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)


def test_ngrams_lead_to_what_the_user_wrote(tiny: Model, ngrams: NgramStore) -> None:
    usual, led = (suggested(tiny, store, num_drafts=3, max_new_tokens=5) for store in (None, ngrams))
    assert usual != led


def test_a_blend_of_which_one_draft_has_all_gives_the_logits_of_its_token(tiny: Model) -> None:
    sequence = prompted(tiny)
    sequence.extend(Draft.empty())
    state = Superposition(sequence.token_ids, 2, mixing=Mixing(alpha=0.0, temperature=1e-4, num_kept=2))
    state.grow(np.linspace(10, -10, 307, dtype=np.float32))
    blend = state.blend()
    assert blend.weights.tolist() == [[1.0, 0.0]]
    blended = sequence.extend_by_blends(blend)[0].copy()
    sequence.append([int(blend.token_ids[0, 0])])
    np.testing.assert_allclose(blended, sequence.extend(Draft.empty())[0], rtol=1e-4, atol=1e-4)


def test_the_prompt_stays_cached_and_a_way_that_is_closed_leaves_no_rows(model: Model) -> None:
    sequence = prompted(model)
    expected = sequence.extend(Draft.empty())[0].copy()
    request = SuggestRequest(tokenizer=model.tokenizer)
    for num_steps in (1, 4):
        steps = superposed(sequence, request)
        for _ in range(num_steps):
            next(steps)
        steps.close()
        sequence.check()
        assert sequence.num_waiting == 1
        np.testing.assert_allclose(sequence.extend(Draft.empty())[0], expected, rtol=1e-3, atol=1e-4)


def test_drafts_that_end_are_kept(tiny: Model, with_stop_ids: WithStopIds) -> None:
    usual = suggested(tiny, num_drafts=3, max_new_tokens=4)
    stop_id = usual[0][0][1]
    found = suggested(with_stop_ids(tiny, [stop_id]), num_drafts=3, max_new_tokens=4)
    assert any(token_ids[-1] == stop_id and len(token_ids) < 4 for token_ids, _ in found)
    assert all(stop_id not in token_ids[:-1] for token_ids, _ in found)


def test_banned_tokens_stay_out(tiny: Model) -> None:
    banned = suggested(tiny, num_drafts=3)[0][0][0]
    found = LanguageModel(tiny).suggest(PROMPT, method="superposed", banned_ids=(banned,))
    assert all(banned not in suggestion.token_ids for suggestion in found)


def test_what_does_not_fit_is_refused_before_any_work(tiny: Model) -> None:
    with pytest.raises(CacheFull):
        LanguageModel(tiny).suggest(
            PROMPT, method="superposed", max_new_tokens=10, context_length=len(tiny.tokenizer.encode(PROMPT)) + 8
        )


# The settings


def test_settings_are_those_of_the_paper() -> None:
    assert mixing_for(3, num_prompt_tokens=15) == Mixing(alpha=0.54, temperature=0.06, num_kept=9)
    assert mixing_for(3, num_prompt_tokens=500) == Mixing(alpha=0.55, temperature=0.10, num_kept=15)
    assert mixing_for(3, num_prompt_tokens=1) == Mixing(alpha=0.34, temperature=0.12, num_kept=15)
    assert mixing_for(1, num_prompt_tokens=15) == Mixing(alpha=0.62, temperature=0.06, num_kept=6)
    assert mixing_for(8, num_prompt_tokens=15) == Mixing(alpha=0.52, temperature=0.06, num_kept=24)
    assert mixing_for(10, num_prompt_tokens=15) == Mixing(alpha=0.54, temperature=0.12, num_kept=30)


def test_without_ngrams_the_law_keeps_its_part() -> None:
    alone = mixing_for(3, num_prompt_tokens=15).alone()
    assert alone.alpha == 0 and alone.temperature == pytest.approx(0.06 / 0.46)


def test_settings_that_cannot_be_are_refused() -> None:
    for alpha, temperature in ((1.0, 0.1), (-0.1, 0.1), (0.5, 0.0)):
        with pytest.raises(ConfigError):
            Mixing(alpha=alpha, temperature=temperature, num_kept=3)

"""Drafters that run a small model: whatever it guesses the text stays the same, and its own text stays in step."""

from __future__ import annotations

import copy
import functools
import heapq
import itertools
import warnings
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import pytest
import tokenizers
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import (
    ConfidenceScale,
    ConfidenceStop,
    Drafter,
    ModelDrafter,
    PlainDrafter,
    Round,
    Step,
    decode,
    level_of,
)
from skipstone.runtime.decoding.verify import rule_named
from skipstone.runtime.engine import Draft, Model, SharedStores
from skipstone.runtime.methods import DrafterContext
from skipstone.runtime.methods.small_model import (
    ChainsDrafter,
    Follower,
    ForeignDrafter,
    TreeDrafter,
    open_model,
    open_staged,
    open_tree,
)
from skipstone.runtime.sampling import Drawn, Likeliest, Sampler, SamplingOptions
from skipstone.runtime.text import Tokenizer

PROMPT = [1, 50, 60, 70]
VOCAB_SIZE = 307
GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.8, seed=3)
OPTIONS = [
    GREEDY,
    SAMPLED,
    SamplingOptions(temperature=1.5, top_k=20, top_p=0.9, seed=4),
    # These look back at the text, so they show whether drafted positions see the right history.
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
    SamplingOptions(repetition_penalty=2.0, frequency_penalty=0.7),
]
OPENERS = [open_model, open_tree, open_staged]
Open = Callable[[DrafterContext], Drafter]


def with_drafter(target: Model, drafter: Model | None) -> Model:
    changed = copy.copy(target)
    changed.shared = SharedStores()
    changed.shared.get("draft model", lambda: drafter)
    return changed


@pytest.fixture(scope="session")
def make_small(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Callable[..., Model]:
    """Open a random model of one layer, its config that of `tiny` with changes; it is surer of what it says."""
    return lambda **config: Model.open(
        make_bundle(make_checkpoint(num_hidden_layers=1, **({"initializer_range": 0.5} | config)))
    )


@pytest.fixture(scope="session")
def small(make_small: Callable[..., Model]) -> Model:
    return make_small()


@pytest.fixture(scope="session")
def pair(tiny: Model, small: Model) -> Model:
    """A target with a drafter that knows nothing of it."""
    return with_drafter(tiny, small)


@pytest.fixture(scope="session")
def twins(tiny: Model) -> Model:
    """A target that is its own drafter."""
    return with_drafter(tiny, tiny)


def context_of(model: Model, options: SamplingOptions = GREEDY, **changes: Any) -> DrafterContext:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))
    return DrafterContext(model=model, sampler=sampler, sequence=sequence, **changes)


class Asking(Drafter):
    """Passes the guesses of a drafter on, asked with some least chance, and notes them."""

    def __init__(self, drafter: Drafter, *, min_chance: float = 0.0) -> None:
        self.drafter, self.name, self.min_chance = drafter, drafter.name, min_chance
        self.drafts: list[Draft] = []

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        self.drafts.append(self.drafter.propose(history, limit=limit, min_chance=self.min_chance))
        return self.drafts[-1]

    def observe(self, seen: Round) -> None:
        self.drafter.observe(seen)


def run(
    model: Model,
    open_it: Open,
    options: SamplingOptions = GREEDY,
    *,
    rule: Any = "match",
    min_chance: float = 0.0,
    num_tokens: int = 24,
) -> tuple[list[int], list[Step], list[Draft]]:
    """Return the whole text, the steps and the drafts; a drafter that fails and is left out is an error."""
    context = context_of(model, options, rule=rule)
    drafter = Asking(open_it(context), min_chance=min_chance)
    accept = rule_named(rule, context.sampler, context.sequence.token_ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = list(decode(context.sequence, drafter=drafter, accept=accept, max_new_tokens=num_tokens, stop_ids=()))
    context.sequence.check()
    return context.sequence.token_ids, steps, drafter.drafts


def plain_text(model: Model, options: SamplingOptions, num_tokens: int = 24) -> list[int]:
    return run(model, lambda context: PlainDrafter(), options, num_tokens=num_tokens)[0]


def logits_after(model: Model, text: SequenceOf[int]) -> NDArray[np.float32]:
    """The slow obvious way: the whole text through a new sequence."""
    sequence = model.new_sequence()
    sequence.append(text)
    return sequence.extend(Draft.empty())[0].copy()


def shares(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def paths(draft: Draft) -> list[tuple[int, ...]]:
    """The tokens that lead to each row."""
    found: list[tuple[int, ...]] = [()]
    for parent, token_id in zip(draft.parents, draft.token_ids, strict=True):
        found.append((*found[parent], token_id))
    return found


# The text


@pytest.mark.parametrize("min_chance", [0.0, 0.05])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("open_it", OPENERS)
def test_a_drafter_that_knows_nothing_leaves_the_text_as_it_is(
    pair: Model, open_it: Open, options: SamplingOptions, min_chance: float
) -> None:
    text, _, drafts = run(pair, open_it, options, min_chance=min_chance)
    assert text == plain_text(pair, options)
    assert any(map(len, drafts))


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("open_it", [open_model, open_staged])
def test_chains_of_the_target_itself_are_always_accepted(twins: Model, open_it: Open, options: SamplingOptions) -> None:
    text, steps, _ = run(twins, open_it, options)
    assert text == plain_text(twins, options)
    assert all(len(step.token_ids) == 1 + step.num_drafted for step in steps)
    assert len(steps) < 24


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_first_path_of_a_tree_of_the_target_itself_is_always_accepted(
    twins: Model, options: SamplingOptions
) -> None:
    text, steps, drafts = run(twins, open_tree, options)
    assert text == plain_text(twins, options)
    for step, draft in zip(steps[1:], drafts, strict=False):  # nothing is asked for the last token alone
        num_first = next((row for row, parent in enumerate(draft.parents) if parent != row), len(draft))
        assert step.token_ids[:num_first] == list(draft.token_ids[:num_first])
    assert any(not draft.is_chain for draft in drafts)


@pytest.mark.parametrize("open_it", [open_model, open_staged])
def test_drawn_chains_of_the_target_itself_are_always_accepted(twins: Model, open_it: Open) -> None:
    _, steps, drafts = run(twins, open_it, SamplingOptions(temperature=0.8, seed=7), rule="rejection")
    assert all(len(step.token_ids) == 1 + step.num_drafted for step in steps)
    assert any(draft.laws for draft in drafts)


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
@pytest.mark.parametrize("open_it", OPENERS)
def test_greedy_text_is_the_same_by_every_rule(pair: Model, open_it: Open, rule: str) -> None:
    assert run(pair, open_it, rule=rule)[0] == plain_text(pair, GREEDY)


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
@pytest.mark.parametrize("open_it", OPENERS)
def test_a_text_by_chance_is_the_same_every_time(pair: Model, open_it: Open, rule: str) -> None:
    first, _, drafts = run(pair, open_it, SAMPLED, rule=rule)
    assert run(pair, open_it, SAMPLED, rule=rule)[0] == first
    assert any(map(len, drafts))


@pytest.mark.parametrize("rule", ["match", "rejection"])
@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_staged_drafts_what_the_small_model_drafts_token_by_token(
    pair: Model, options: SamplingOptions, rule: str
) -> None:
    by_token, staged = (run(pair, open_it, options, rule=rule)[2] for open_it in (open_model, open_staged))
    assert len(by_token) == len(staged)
    for one, other in zip(by_token, staged, strict=True):
        assert (one.token_ids, one.levels) == (other.token_ids, other.levels)


def test_staged_calls_the_small_model_less_often(twins: Model, fed: list[tuple[int, ...]]) -> None:
    num_calls: list[int] = []
    for open_it in (open_model, open_staged):
        drafter = open_it(context_of(twins))
        for _ in range(2):  # the second time the table of successors is full
            fed.clear()
            drafter.propose(PROMPT, limit=24, min_chance=1e-30)
        num_calls.append(len(fed))
    assert num_calls[1] < num_calls[0] == 24


# In step with the text

growth = st.lists(
    st.tuples(
        st.integers(0, 3),  # guesses taken
        st.sampled_from(["nothing", "chain", "tree"]),  # fed behind them
        st.integers(0, 6),  # tokens of the draft that come true
        st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=3),  # tokens that come behind
    ),
    max_size=6,
)
FED = {
    "nothing": Draft.empty(),
    "chain": Draft.chain([9, 8, 7], source="test"),
    "tree": Draft((9, 8, 7, 8), "test", (0, 1, 0, 3)),
}


@given(rounds=growth)
@settings(max_examples=40, deadline=None)
def test_the_small_model_has_read_exactly_the_text_whatever_was_drafted(
    small: Model, rounds: list[tuple[int, str, int, list[int]]]
) -> None:
    follower = Follower(small, capacity=256, vocab_size=VOCAB_SIZE)
    history = list(PROMPT)
    for num_taken, fed, num_true, coming in rounds:
        assert follower.follow(history) == 256 - len(history)
        assert follower.sequence.token_ids == history
        guesses = []
        for _ in range(num_taken):
            guesses.append(int(follower.logits()[0].argmax()))
            follower.take(guesses[-1])
        follower.logits(FED[fed])
        history += [*guesses, 7, 8][: min(num_true, num_taken + 2)] + coming
    follower.follow(history)
    follower.sequence.check()
    np.testing.assert_allclose(follower.logits()[0], logits_after(small, history), atol=2e-4)


@pytest.mark.parametrize(
    ("fed", "coming", "num_fed"),
    [("tree", [7, 8, 5], 1), ("tree", [9, 5, 5], 2), ("chain", [9, 8, 7, 5], 1), ("nothing", [5, 5], 2)],
)
def test_what_came_true_is_not_fed_again(small: Model, fed: str, coming: list[int], num_fed: int) -> None:
    follower = Follower(small, capacity=256, vocab_size=VOCAB_SIZE)
    follower.follow(PROMPT)
    follower.logits(FED[fed])
    follower.follow(PROMPT + coming)
    assert follower.sequence.num_waiting == num_fed


def test_a_text_that_is_not_drafted_for_a_while_is_caught_up_with(pair: Model) -> None:
    drafter = open_model(context_of(pair))
    drafter.propose(PROMPT, limit=8)
    text = [*PROMPT, *range(100, 140)]
    fresh = open_model(context_of(pair))
    assert drafter.propose(text, limit=8) == fresh.propose(text, limit=8)


# Limits


@pytest.mark.parametrize("rule", ["match", "rejection", "k-seq"])
@pytest.mark.parametrize("min_chance", [0.0, 1e-9])
@pytest.mark.parametrize("open_it", OPENERS)
@pytest.mark.parametrize("limit", range(6))
def test_no_drafter_guesses_more_than_it_may(
    pair: Model, open_it: Open, rule: str, min_chance: float, limit: int
) -> None:
    draft = open_it(context_of(pair, SAMPLED, rule=rule)).propose(PROMPT, limit=limit, min_chance=min_chance)
    assert len(draft) <= limit
    assert len(draft) > 0 or limit == 0 or min_chance == 0


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
@pytest.mark.parametrize("open_it", OPENERS)
def test_a_text_that_outgrows_the_small_model_goes_on_without_it(
    tiny: Model, make_small: Callable[..., Model], open_it: Open, options: SamplingOptions
) -> None:
    model = with_drafter(tiny, make_small(max_position_embeddings=16))
    text, _, drafts = run(model, open_it, options, min_chance=1e-9)
    assert text == plain_text(tiny, options)
    assert any(map(len, drafts)) and len(drafts[-1]) == 0


@pytest.mark.parametrize("open_it", OPENERS)
@pytest.mark.parametrize("length", range(12, 20))
def test_guesses_fit_the_context_of_the_small_model(
    tiny: Model, make_small: Callable[..., Model], open_it: Open, length: int
) -> None:
    model = with_drafter(tiny, make_small(max_position_embeddings=16))
    draft = open_it(context_of(model)).propose([5] * length, limit=8, min_chance=1e-9)
    assert length + len(draft) <= 16 or len(draft) == 0


@pytest.mark.parametrize("rule", ["match", "rejection"])
@pytest.mark.parametrize("vocab_size", [302, 320])
@pytest.mark.parametrize("open_it", OPENERS)
def test_vocabularies_may_differ_in_padding(
    tiny: Model, make_small: Callable[..., Model], open_it: Open, vocab_size: int, rule: str
) -> None:
    model = with_drafter(tiny, make_small(vocab_size=vocab_size))
    options = SamplingOptions(temperature=2.0, seed=1, logit_bias={306: 1.0})
    context = context_of(model, options, rule=rule)
    draft = open_it(context).propose(PROMPT, limit=8, min_chance=1e-9)
    assert draft.token_ids and max(draft.token_ids) < min(vocab_size, VOCAB_SIZE)
    assert all(law is None or law.shape == (VOCAB_SIZE,) for law in draft.laws)


# When to stop


def test_the_threshold_follows_what_is_accepted() -> None:
    stop = ConfidenceStop(threshold=0.6, wanted_rate=0.9, step=0.01, longest=8)
    trace = []
    for accepted, drafted in [(4, 4), (4, 4), (5, 5), (3, 3), (8, 8), (2, 4), (1, 1)]:
        stop.update(num_accepted=accepted, num_drafted=drafted)
        trace.append((stop.rate, stop.threshold))
    rates, thresholds = zip(*trace, strict=True)
    assert rates == (0.5, 0.75, 0.875, 0.9375, 0.96875, 0.734375, 0.8671875)
    assert thresholds == pytest.approx((0.601, 0.602, 0.603, 0.602, 0.602, 0.603, 0.604))


@pytest.mark.parametrize(("num_accepted", "end"), [(0, 1.0), (3, 0.0)])
def test_the_threshold_stays_a_confidence(num_accepted: int, end: float) -> None:
    stop = ConfidenceStop(step=1.0)
    for _ in range(400):
        stop.update(num_accepted=num_accepted, num_drafted=3)
    assert stop.threshold == pytest.approx(end) and 0 <= stop.threshold <= 1


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"wanted_rate": -0.1}, {"step": 2}, {"longest": 0}])
def test_a_threshold_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ConfidenceStop(**wrong)


def greedy_chain(model: Model, length: int) -> list[tuple[int, float]]:
    """The slow obvious way: guesses of a small model and its confidence in each."""
    chain: list[tuple[int, float]] = []
    for _ in range(length):
        share = shares(logits_after(model, [*PROMPT, *(token_id for token_id, _ in chain)]))
        chain.append((int(share.argmax()), float(share.max())))
    return chain


def test_without_prices_a_chain_ends_with_the_first_unsure_guess(pair: Model, small: Model) -> None:
    chain = greedy_chain(small, 8)
    unsure = next((index for index, (_, confidence) in enumerate(chain) if confidence < 0.6), 7)
    draft = open_model(context_of(pair)).propose(PROMPT, limit=100)
    assert draft.token_ids == tuple(token_id for token_id, _ in chain[: unsure + 1])


def test_a_chain_ends_after_eight_guesses(twins: Model) -> None:
    drafter = open_model(context_of(twins))
    assert isinstance(drafter, ModelDrafter)
    drafter.stop.threshold = 0.0
    assert len(drafter.propose(PROMPT, limit=100)) == 8


@pytest.mark.parametrize("min_chance", [0.9, 0.5, 0.1, 0.01, 1e-6])
def test_with_a_least_chance_a_chain_ends_before_its_product_falls_below(
    pair: Model, small: Model, min_chance: float
) -> None:
    chain = greedy_chain(small, 12)
    products = np.cumprod([confidence for _, confidence in chain])
    draft = open_model(context_of(pair)).propose(PROMPT, limit=12, min_chance=min_chance)
    assert len(draft) == int((products >= min_chance).sum())
    assert draft.token_ids == tuple(token_id for token_id, _ in chain[: len(draft)])


def test_levels_are_deciles_of_confidence(pair: Model, small: Model) -> None:
    draft = open_model(context_of(pair)).propose(PROMPT, limit=10, min_chance=1e-30)
    assert len(set(draft.levels)) > 1
    assert draft.levels == tuple(min(int(confidence * 10), 9) for _, confidence in greedy_chain(small, 10))
    assert [level_of(confidence) for confidence in (0.0, 0.0999, 0.1, 0.95, 1.0)] == [0, 0, 1, 9, 9]


def test_confidence_is_taken_at_its_word_until_guesses_were_judged() -> None:
    calibration = ConfidenceScale()
    assert [calibration.chance(confidence) for confidence in (0.0, 0.33, 1.0)] == pytest.approx([0.0, 0.33, 1.0])
    for _ in range(100):
        calibration.learn(Draft.chain([5, 6], source="test", levels=[9, 3]), [5, 7])
    assert calibration.chance(0.95) > 0.95 and calibration.chance(0.35) < 0.05
    assert calibration.chance(0.55) == pytest.approx(0.55)


def test_only_guesses_that_were_reached_teach() -> None:
    calibration = ConfidenceScale()
    tree = Draft((5, 6, 7, 8), "test", (0, 1, 0, 3), (9, 3, 5, 7))
    for _ in range(100):
        calibration.learn(tree, [7])  # the text ends behind 7
    assert calibration.chance(0.95) < 0.1 < 0.9 < calibration.chance(0.55)
    assert calibration.chance(0.35) == pytest.approx(0.35) and calibration.chance(0.75) == pytest.approx(0.75)


def test_a_drafter_that_is_always_wrong_soon_drafts_less(pair: Model) -> None:
    _, _, drafts = run(pair, open_model, min_chance=0.1, num_tokens=160)
    assert sum(map(len, drafts[:20])) > 2 * sum(map(len, drafts[-20:]))


# Trees


def best_first(model: Model, sampler: Sampler, most: int, least: float, branching: int) -> set[tuple[int, ...]]:
    """The slow obvious way: always take the likeliest path of all, one model call for each."""
    found: set[tuple[int, ...]] = set()
    heap: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
    while heap and len(found) <= most:
        value, path = heapq.heappop(heap)
        found.add(path)
        text = [*PROMPT, *path]
        picks = Likeliest(sampler).pick(logits_after(model, text), text, branching)
        for token_id, confidence in zip(picks.token_ids, picks.confidences, strict=True):
            if -value * confidence >= least:
                heapq.heappush(heap, (value * confidence, (*path, token_id)))
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize(("most", "least"), [(1, 1e-9), (3, 1e-9), (8, 1e-9), (15, 1e-9), (15, 0.02), (15, 0.2)])
@pytest.mark.parametrize("branching", [2, 3])
def test_a_tree_is_what_best_first_search_finds(
    pair: Model, small: Model, options: SamplingOptions, most: int, least: float, branching: int
) -> None:
    context = context_of(pair, options)
    text = Follower(small, capacity=256, vocab_size=VOCAB_SIZE)
    draft = TreeDrafter(text, Likeliest(context.sampler), branching=branching).propose(
        PROMPT, limit=most, min_chance=least
    )
    assert set(paths(draft)) == best_first(small, context.sampler, most, least, branching)
    assert len(draft) <= most


def test_the_likeliest_path_comes_first_in_a_tree(pair: Model, small: Model) -> None:
    draft = open_tree(context_of(pair)).propose(PROMPT, limit=12, min_chance=1e-9)
    assert not draft.is_chain
    for row, path in enumerate(paths(draft)):
        children = [draft.token_ids[index] for index, parent in enumerate(draft.parents) if parent == row]
        share = shares(logits_after(small, [*PROMPT, *path]))
        assert [share[child] for child in children] == sorted((share[child] for child in children), reverse=True)
        if children:
            assert draft.parents[row] == row, "the first child stands right behind its parent"


@pytest.mark.parametrize("branching", [0, 1])
def test_a_tree_that_does_not_branch_is_refused(small: Model, branching: int) -> None:
    text = Follower(small, capacity=256, vocab_size=VOCAB_SIZE)
    with pytest.raises(ConfigError, match=f"branching must be at least 2, got {branching}"):
        TreeDrafter(text, Likeliest(Sampler(greedy=True)), branching=branching)
    with pytest.raises(ConfigError, match="num_chains must be at least 1, got 0"):
        ChainsDrafter(text, Likeliest(Sampler(greedy=True)), num_chains=0)


# Drafts by chance


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_first_of_the_likeliest_is_what_the_sampler_chooses(small: Model, options: SamplingOptions) -> None:
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))
    for last in range(40):
        text = [*PROMPT, last, last]
        logits = logits_after(small, text)
        picks = Likeliest(sampler).pick(logits, text, 4)
        assert picks.token_ids[0] == sampler.choose(logits, text)
        assert len(set(picks.token_ids)) == len(picks.token_ids) <= 4
        assert picks.confidences == sorted(picks.confidences, reverse=True)
        assert 0 < sum(picks.confidences) <= 1 + 1e-6


def test_draws_follow_the_law_without_replacement() -> None:
    law = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = Drawn(Sampler(seed=11))
    counts: Counter[tuple[int, ...]] = Counter()
    for position in range(4000):
        drawn.start(position)
        drawn.pick(np.zeros(4, np.float32), [], 1)  # the second draw of a round is as good as the first
        picks = drawn.pick(np.log(law).astype(np.float32), [], 2)
        counts[tuple(picks.token_ids)] += 1
        first = picks.token_ids[0]
        assert picks.confidences == pytest.approx([0.5, 0.3 if first == 0 else 0.5], abs=1e-6)
    chi_square = 0.0
    for first, second in itertools.permutations(range(4), 2):
        expected = 4000 * law[first] * law[second] / (1 - law[first])
        chi_square += (counts[first, second] - expected) ** 2 / expected
    assert chi_square < 31.3  # of 11 degrees of freedom, exceeded once in a thousand


def test_no_more_is_drawn_than_the_law_holds() -> None:
    drawn = Drawn(Sampler(seed=0))
    logits = np.array([-np.inf, 1.0, -np.inf, 2.0], np.float32)
    picks = drawn.pick(logits, [], 3)
    assert sorted(picks.token_ids) == [1, 3]
    assert sorted(Likeliest(Sampler(greedy=True)).pick(logits, [], 3).token_ids) == [1, 3]


@pytest.mark.parametrize("open_it", OPENERS)
@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_laws_are_those_of_the_small_model_at_each_row(pair: Model, small: Model, open_it: Open, rule: str) -> None:
    context = context_of(pair, SamplingOptions(temperature=1.5, repetition_penalty=1.5, seed=2), rule=rule)
    draft = open_it(context).propose(PROMPT, limit=8, min_chance=1e-9)
    assert len(draft.laws) == len(draft) + 1
    for row, path in enumerate(paths(draft)):
        law, text = draft.laws[row], [*PROMPT, *path]
        assert (law is not None) == (row in draft.parents)
        if law is not None:
            np.testing.assert_allclose(law, context.sampler.law(logits_after(small, text), text), atol=1e-5)


@pytest.mark.parametrize("open_it", OPENERS)
def test_k_seq_is_told_how_often_each_guess_was_drawn(pair: Model, open_it: Open) -> None:
    num_chains = 2 if open_it is open_tree else 1
    merged = 0
    for seed in range(30):
        context = context_of(pair, SamplingOptions(temperature=0.7, seed=seed), rule="k-seq")
        draft = open_it(context).propose(PROMPT, limit=8, min_chance=1e-3)
        assert len(draft.draws) == len(draft) + 1
        passing = {0: num_chains} | Counter(itertools.chain.from_iterable(draft.draws))
        for row, drawn in enumerate(draft.draws):
            assert len(drawn) in (0, passing[row])
            assert all(draft.parents[child - 1] == row for child in drawn)
        merged += any(len(drawn) > len(set(drawn)) for drawn in draft.draws)
    assert bool(merged) == (open_it is open_tree)


@pytest.mark.parametrize("rule", ["match", "rejection"])
def test_only_k_seq_is_told_of_draws(pair: Model, rule: str) -> None:
    for open_it in OPENERS:
        assert open_it(context_of(pair, SAMPLED, rule=rule)).propose(PROMPT, limit=8, min_chance=1e-9).draws == ()


def test_whether_a_drawn_tree_branches_does_not_depend_on_the_draws(pair: Model) -> None:
    """Rejection judges chains and trees by different rules."""
    for seed, limit in itertools.product(range(20), (1, 2, 8)):
        context = context_of(pair, SamplingOptions(temperature=0.4, seed=seed), rule="rejection")
        draft = open_tree(context).propose(PROMPT, limit=limit, min_chance=0.05)
        assert len(draft) > 0 and draft.is_chain == (limit == 1), draft


VOCABULARY = 4


@functools.cache
def toy_logits(seed: int, path: tuple[int, ...]) -> NDArray[np.float32]:
    random = np.random.default_rng((seed, len(path), *path))
    return np.log(random.dirichlet(np.full(VOCABULARY, 0.7))).astype(np.float32)


class ToyText(Follower):
    """A small model that is a table."""

    def __init__(self) -> None:
        self.sequence: Any = type("Text", (), {"token_ids": []})()

    def follow(self, history: SequenceOf[int]) -> int:
        self.sequence.token_ids = list(history)
        return 8

    def logits(self, draft: Draft = FED["nothing"]) -> NDArray[np.float32]:
        return np.stack([toy_logits(1000, (*self.sequence.token_ids, *path)) for path in paths(draft)])

    def take(self, token_id: int) -> None:
        self.sequence.token_ids.append(token_id)


DRAWING: dict[str, tuple[str, Callable[[Sampler], Drafter]]] = {
    "chain": ("rejection", lambda sampler: ModelDrafter(ToyText(), Drawn(sampler))),
    "tree": ("rejection", lambda sampler: TreeDrafter(ToyText(), Drawn(sampler))),
    "chains": ("k-seq", lambda sampler: ChainsDrafter(ToyText(), Drawn(sampler))),
    "chain for k-seq": ("k-seq", lambda sampler: ModelDrafter(ToyText(), Drawn(sampler), rule="k-seq")),
}


def error_of_law(rule: Any, draft_for: Callable[[Sampler], Draft], num_rounds: int) -> float:
    """Return chi-square of the first two tokens that rounds with different seeds emit, 15 degrees of freedom."""
    joint = np.zeros((VOCABULARY, VOCABULARY))
    for seed in range(num_rounds):
        sampler = Sampler(seed=seed)
        draft = draft_for(sampler)
        logits = np.stack([toy_logits(0, (1, 2, *path)) for path in paths(draft)])
        emitted = rule_named(rule, sampler, [1, 2])(draft, logits)
        if len(emitted) == 1:  # the model goes on alone
            emitted.append(Sampler(seed=seed + num_rounds).choose(toy_logits(0, (1, 2, *emitted)), [1, 2, *emitted]))
        joint[emitted[0], emitted[1]] += 1
    first = shares(toy_logits(0, (1, 2)))
    expected = num_rounds * np.stack([first[x] * shares(toy_logits(0, (1, 2, x))) for x in range(VOCABULARY)])
    often = expected >= 5
    rest = (joint[~often].sum() - expected[~often].sum()) ** 2 / max(expected[~often].sum(), 1.0)
    return float((((joint - expected) ** 2 / expected)[often]).sum() + rest)


@pytest.mark.parametrize("min_chance", [0.0, 0.1])
@pytest.mark.parametrize("kind", DRAWING)
def test_text_drafted_by_chance_follows_the_law_of_the_model(kind: str, min_chance: float) -> None:
    rule, make = DRAWING[kind]
    error = error_of_law(rule, lambda sampler: make(sampler).propose([1, 2], limit=4, min_chance=min_chance), 1500)
    assert error < 37.7  # exceeded once in a thousand


def test_leaving_out_what_was_drawn_for_what_it_is_would_show() -> None:
    def draft_for(sampler: Sampler) -> Draft:
        draft = ModelDrafter(ToyText(), Drawn(sampler)).propose([1, 2], limit=1)
        return draft if draft.token_ids[0] % 2 else Draft.empty()

    assert error_of_law("rejection", draft_for, 1500) > 37.7


# What is refused


@pytest.mark.parametrize("open_it", OPENERS)
def test_a_bundle_without_a_small_model_says_how_to_make_one_with(tiny: Model, open_it: Open) -> None:
    name = open_it.__name__.removeprefix("open_")
    with pytest.raises(ConfigError, match=f"'{name}' needs a small model, .* `skipstone export .* --draft-model SMALL"):
        open_it(context_of(with_drafter(tiny, None)))


def test_a_small_model_with_another_tokenizer_drafts_through_text_and_not_otherwise(tiny: Model, small: Model) -> None:
    backend = tokenizers.Tokenizer.from_str(small.tokenizer.backend.to_str())
    backend.add_tokens(["<more>"])
    other = copy.copy(small)
    other.tokenizer = Tokenizer(backend)
    model = with_drafter(tiny, other)
    assert isinstance(open_model(context_of(model)), ForeignDrafter)
    for open_it in (open_tree, open_staged):
        with pytest.raises(ConfigError, match=r"the tokenizer of the large one.*use model"):
            open_it(context_of(model))


def test_a_text_of_chains_refuses_trees_by_name(pair: Model) -> None:
    with pytest.raises(ConfigError, match="takes chains only, which tree does not draft; use model"):
        open_tree(context_of(pair, trees=False))


def test_a_small_model_that_sees_a_window_drafts_chains_only(
    tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    checkpoint = make_checkpoint("mistral", num_hidden_layers=1, sliding_window=6)
    model = with_drafter(tiny, Model.open(make_bundle(checkpoint)))
    with pytest.raises(ConfigError, match="cannot run trees"):
        open_tree(context_of(model))
    for open_it in (open_model, open_staged):
        text, _, drafts = run(model, open_it, min_chance=1e-9)
        assert text == plain_text(tiny, GREEDY) and any(map(len, drafts))

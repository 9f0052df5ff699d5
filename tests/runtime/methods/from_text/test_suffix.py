"""Suffix decoding: what most often followed the longest match, in this text, in earlier ones, in sibling samples."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from decoding import GREEDY, OPTIONS, VOCAB_SIZE, plain_text, sampler_for
from hypothesis import given
from hypothesis import strategies as st

from skipstone.conversation import Conversation
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, SharedStores
from skipstone.runtime.generation import Generation, GenerationOptions
from skipstone.runtime.methods import DrafterContext, open_drafter
from skipstone.runtime.methods.from_text import MATCHES, NUM_VOTES, OTHER_TEXTS, SuffixDrafter, prior
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import SuffixMemory, TextIndex

PLANNER = 1e-9  # a `min_chance` so low that only what is known ends a draft
PROMPT = [1, 50, 60, 70]


def proposed(history: list[int], *texts: list[int], limit: int = 15, min_chance: float = 0.0) -> Draft:
    """Return the draft of a drafter that remembers these texts, the last the newest."""
    memory = SuffixMemory(capacity=4096)
    for text in texts:
        memory.add(text)
    return SuffixDrafter(TextIndex(1024), memory).propose(history, limit=limit, min_chance=min_chance)


@pytest.fixture
def fresh(tiny: Model) -> Callable[[], Model]:
    """Return the tiny model as a new process would open it."""

    def make() -> Model:
        model = copy.copy(tiny)
        model.shared = SharedStores()
        return model

    return make


# Which tokens it guesses


def test_the_longest_match_decides_and_the_majority_of_its_places() -> None:
    same = [1, 2, 3, 4]
    history = [*same, 50, 9, *same, 60, 9, *same, 50, 9, 3, 4, 70, *same]
    assert proposed(history).token_ids[0] == 50


def test_after_each_guess_it_looks_again() -> None:
    # The newest place of 1 2 goes on with 3 4 5, but 1 2 3 4 was more often followed by 6.
    history = [1, 2, 3, 4, 6, 90, 1, 2, 3, 4, 6, 91, 8, 1, 2, 3, 4, 5, 93, 1, 2]
    assert proposed(history, min_chance=PLANNER).token_ids[:3] == (3, 4, 6)


@pytest.mark.parametrize(("matched", "copied"), [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (12, 8)])
def test_by_itself_it_guesses_as_many_tokens_as_matched(matched: int, copied: int) -> None:
    same = [*range(100, 100 + matched)]
    history = [1, *same, *range(200, 220), 2, *same]
    assert proposed(history).token_ids == tuple(range(200, 200 + copied))


def test_a_planner_gets_more() -> None:
    history = [1, 5, 6, *range(200, 240), 2, 5, 6]
    assert proposed(history, min_chance=PLANNER).token_ids == tuple(range(200, 215))


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_a_loop_is_copied_on_beyond_what_was_written(period: int) -> None:
    history = [*range(100, 100 + period)] * 40
    draft = proposed(history, min_chance=PLANNER)
    assert draft.token_ids == tuple(history[:period] * 15)[:15]


@given(period=st.integers(1, 9), num_more=st.integers(0, 60), limit=st.integers(1, 31))
def test_a_loop_that_has_come_round_once_goes_on_as_it_began(period: int, num_more: int, limit: int) -> None:
    loop = [1 + place % period for place in range(2 * period + num_more + limit)]
    length = 2 * period + num_more
    draft = proposed([100, 101, *loop[:length]], limit=limit, min_chance=PLANNER)
    assert len(draft) and list(draft.token_ids) == loop[length : length + len(draft)]


@given(
    history=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    others=st.lists(st.lists(st.integers(0, 4), max_size=30), max_size=4),
    limit=st.integers(1, 15),
    min_chance=st.sampled_from([0.0, PLANNER, 0.3]),
)
def test_a_draft_is_a_chain_of_known_tokens_within_the_limit(
    history: list[int], others: list[list[int]], limit: int, min_chance: float
) -> None:
    draft = proposed(history, *others, limit=limit, min_chance=min_chance)
    assert draft.is_chain and len(draft) <= limit and len(draft.levels) == len(draft)
    assert set(draft.token_ids) <= {token_id for text in (history, *others) for token_id in text}


def test_what_was_never_seen_gives_no_guess() -> None:
    assert len(proposed([1, 2, 3])) == 0


def test_unlikely_guesses_are_left_out_for_a_planner() -> None:
    history = [1, 2, 3, 1]  # a single token matches, at a single place
    assert len(proposed(history, min_chance=PLANNER)) > 2
    assert len(proposed(history, min_chance=0.9)) == 1, "the chance of a guess is known when it is made"


# Earlier texts


def test_earlier_texts_are_used_where_this_one_says_nothing() -> None:
    draft = proposed([1, 2, 3, 4], [9, 1, 2, 3, 4, 50, 51, 52, 53, 54])
    assert draft.token_ids == (50, 51, 52, 53)
    assert min(draft.levels) >= OTHER_TEXTS


def test_of_earlier_texts_the_majority_counts() -> None:
    texts = [[1, 2, 3, 4, follower] for follower in (50, 60, 50)]
    assert proposed([1, 2, 3, 4], *texts).token_ids[0] == 50


def test_a_long_match_in_the_text_itself_beats_longer_ones_elsewhere() -> None:
    same = [*range(100, 120)]
    draft = proposed([*same[-4:], 50, 51, *same], [*same, 60, 61], [*same, 60, 61])
    assert draft.token_ids[0] == 50 and draft.levels[0] < OTHER_TEXTS


def test_a_short_match_in_the_text_itself_yields_to_a_long_one_elsewhere() -> None:
    same = [*range(100, 120)]
    draft = proposed([same[-1], 50, 51, *same], [*same, 60, 61])
    assert draft.token_ids == (60, 61) and min(draft.levels) >= OTHER_TEXTS


def test_a_draft_may_begin_in_this_text_and_go_on_in_another() -> None:
    draft = proposed([1, 2, 3, 4, 50, 1, 2, 3, 4], [9, 2, 3, 4, 50, 60, 61], min_chance=PLANNER)
    assert draft.token_ids[0] == 50
    assert draft.levels[0] < OTHER_TEXTS


# Its chances


def test_more_agreement_is_better_evidence_and_other_texts_are_never_better() -> None:
    for length in range(7):
        chances = [prior(NUM_VOTES * length + vote) for vote in range(NUM_VOTES)]
        assert chances == sorted(chances, reverse=True)
        assert chances[-1] > 0 and chances[0] < 1
        others = [prior(OTHER_TEXTS + NUM_VOTES * length + vote) for vote in range(NUM_VOTES)]
        assert all(other <= own for other, own in zip(others, chances, strict=True))


@pytest.mark.parametrize(
    ("followers", "vote"), [([50] * 4, 0), ([50] * 3, 1), ([50], 2), ([50, 60, 50], 3), ([50, 60, 70, 80], 4)]
)
def test_levels_tell_how_the_places_voted(followers: list[int], vote: int) -> None:
    same = [1, 2, 3, 4]
    history = [token_id for place, follower in enumerate(followers) for token_id in (100 + place, *same, follower)]
    draft = proposed([*history, 99, *same], limit=1)
    assert draft.levels == (MATCHES.index(4) * NUM_VOTES + vote,)


def test_the_match_grows_while_copying() -> None:
    same = [*range(100, 110)]
    draft = proposed([1, *same, *range(200, 240), 2, *same], limit=30, min_chance=PLANNER)
    only = NUM_VOTES * MATCHES.index(8) + 2
    assert draft.levels == (only,) * 8 + (only + NUM_VOTES,) * 16 + (only + 2 * NUM_VOTES,) * 6


# What it leaves behind


def test_a_finished_text_is_remembered_without_its_known_beginning() -> None:
    memory = SuffixMemory(capacity=256)
    SuffixDrafter(TextIndex(64), memory, num_known=3).finish([1, 2, 3, 4, 5])
    assert memory.index.following(memory.index.end - 2, 2) == [4, 5]
    assert memory.index.end == 256 + 3, "a boundary and two tokens"


def decoded(model: Model, options: SamplingOptions = GREEDY) -> tuple[list[int], list[Step]]:
    """Return a text and its steps, as two requests to one model make them."""
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    sampler = sampler_for(options)
    context = DrafterContext(model=model, sampler=sampler, sequence=sequence, shared=model.shared)
    drafter = open_drafter("suffix", context)
    accept = match(sampler, sequence.token_ids)
    steps = list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=16, stop_ids=()))
    return sequence.token_ids, steps


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding_and_found_again_by_the_next_request(
    fresh: Callable[[], Model], options: SamplingOptions
) -> None:
    model = fresh()
    plain = plain_text(model, options, 16)
    first, second = decoded(model, options), decoded(model, options)
    assert first[0] == second[0] == plain
    assert len(second[1]) < len(first[1])
    assert len(second[1]) <= 6, "sixteen tokens, nearly all guessed"


def test_the_samples_of_one_prompt_find_each_other(fresh: Callable[[], Model]) -> None:
    options = {"max_new_tokens": 24, "temperature": 0.01, "decode": "suffix"}
    samples = list(LanguageModel(fresh()).samples("def add(", 3, seed=5, **options))
    alone = [LanguageModel(fresh()).generate("def add(", seed=5 + number, **options) for number in range(3)]
    assert [sample.text for sample in samples] == [generation.text for generation in alone]
    assert samples[2].stats.model_calls < alone[2].stats.model_calls
    assert samples[2].stats.model_calls < samples[0].stats.model_calls


def test_a_chat_turn_does_not_add_the_earlier_turns_again(fresh: Callable[[], Model]) -> None:
    model = fresh()
    memory = SuffixMemory(capacity=4096)
    model.shared.get("suffix memory", lambda: memory)
    conversation = Conversation(model)
    # Answers of digits: each is a token of its own, so that an answer is the same tokens when it is read again.
    others = set(range(VOCAB_SIZE)) - set(model.tokenizer.encode("0123456789"))
    sampling = SamplingOptions(banned_ids=tuple(others))
    options = GenerationOptions(max_new_tokens=8, decode="suffix", sampling=sampling)
    for turn in range(3):
        Generation.join(list(conversation.stream(f"Message {turn}", options)))
    num_added = memory.index.end - memory.index.capacity
    num_tokens = len(conversation.token_ids)
    # Each turn adds a boundary, and the last token before it once more, which was not yet in the cache.
    assert num_tokens <= num_added - 3 <= num_tokens + 6


def test_a_text_that_is_left_in_the_middle_is_remembered(fresh: Callable[[], Model]) -> None:
    model = fresh()
    pieces = LanguageModel(model).stream("def add(", decode="suffix", max_new_tokens=20)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    memory = model.shared.get("suffix memory", SuffixMemory)
    assert memory.index.end - memory.index.capacity == 1 + len(model.tokenizer.encode("def add(")) + 1


def test_what_auto_never_asked_for_is_remembered_too(fresh: Callable[[], Model]) -> None:
    model = fresh()
    LanguageModel(model).generate("def add(", decode="auto", max_new_tokens=2)
    memory = model.shared.get("suffix memory", SuffixMemory)
    assert memory.index.end - memory.index.capacity == 1 + len(model.tokenizer.encode("def add(")) + 2


def test_texts_of_one_model_are_unknown_to_another(fresh: Callable[[], Model]) -> None:
    first = fresh()
    decoded(first)
    assert [step.num_drafted for step in decoded(fresh())[1]] != [step.num_drafted for step in decoded(first)[1]]


def test_it_is_opened_under_every_rule(tiny: Model) -> None:
    for rule in ("match", "rejection", "k-seq"):
        context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), rule=rule)  # type: ignore[arg-type]
        assert open_drafter("suffix", context).name == "suffix"

"""The decoding loop: whatever a drafter guesses, the tokens are those of plain decoding, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.decode import Step, decode, match
from skipstone.runtime.draft import Draft, PlainDrafter
from skipstone.runtime.model import Model
from skipstone.runtime.sampling import Sampler, SamplingOptions

PROMPT = [1, 50, 60, 70]
VOCAB_SIZE = 307
GREEDY = SamplingOptions()
SAMPLED = [
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.5, top_k=20, top_p=0.9, seed=4),
    # These look back at the text, so they show whether drafted positions see the right history.
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
    SamplingOptions(repetition_penalty=2.0, frequency_penalty=0.7),
]


@dataclass
class ScriptedDrafter:
    """Guesses by a plan: at each step so many tokens of the truth, then so many that are wrong."""

    truth: list[int]
    plan: Iterator[tuple[int, int]]
    limits: list[int] = field(default_factory=list)

    def propose(self, history: SequenceOf[int], *, limit: int) -> Draft:
        assert list(history) == self.truth[: len(history)]
        self.limits.append(limit)
        num_right, num_wrong = next(self.plan, (0, 0))
        coming = self.truth[len(history) : len(history) + num_right + num_wrong]
        guesses = coming[:num_right] + [(token_id + 1) % VOCAB_SIZE for token_id in coming[num_right:]]
        return Draft.chain(guesses[:limit], source="scripted")


@dataclass
class RandomDrafter:
    """Knows nothing and guesses a lot."""

    seed: int

    def propose(self, history: SequenceOf[int], *, limit: int) -> Draft:
        random = np.random.default_rng((self.seed, len(history)))
        length = min(limit, int(random.integers(0, 9)))
        return Draft.chain(random.integers(0, VOCAB_SIZE, size=length).tolist(), source="random")


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


def run(
    model: Model,
    drafter: PlainDrafter | ScriptedDrafter | RandomDrafter,
    *,
    options: SamplingOptions = GREEDY,
    max_new_tokens: int = 16,
    stop_ids: Collection[int] = (),
    context_length: int | None = None,
) -> tuple[list[int], list[Step]]:
    """Return the whole text and the steps; checks what holds for any drafter."""
    sequence = model.new_sequence(context_length=context_length)
    sequence.append(PROMPT)
    steps, made = [], []
    for step in decode(
        sequence,
        drafter=drafter,
        accept=match(sampler_for(options, stop_ids), sequence.token_ids),
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
    ):
        sequence.check()
        made += step.token_ids
        assert sequence.token_ids == PROMPT + made
        assert step.token_ids and len(step.token_ids) <= 1 + step.num_drafted
        assert len(step.logits) >= len(step.token_ids)
        steps.append(step)
    return sequence.token_ids, steps


@pytest.fixture(scope="session", params=["one stage", "four stages"])
def model(request: pytest.FixtureRequest, tiny: Model, tiny_stages: Model) -> Model:
    return tiny if request.param == "one stage" else tiny_stages


@pytest.fixture(scope="session")
def greedy_text(tiny: Model) -> list[int]:
    """The prompt and sixteen tokens after it."""
    text = plain_text(tiny, GREEDY, 16)
    assert len(set(text)) > 8, "a text that only repeats itself would be too easy to guess"
    return text


plans = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=16)


def test_without_a_drafter_the_loop_gives_the_plain_text(model: Model, greedy_text: list[int]) -> None:
    text, steps = run(model, PlainDrafter())
    assert text == greedy_text
    assert [(len(step.token_ids), step.num_drafted, step.drafter) for step in steps] == [(1, 0, "plain")] * 16


@given(plan=plans)
@settings(max_examples=30, deadline=None)
def test_any_mix_of_right_and_wrong_guesses_gives_the_greedy_text(
    model: Model, greedy_text: list[int], plan: list[tuple[int, int]]
) -> None:
    assert run(model, ScriptedDrafter(greedy_text, iter(plan)))[0] == greedy_text


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_random_guesses_give_the_greedy_text(tiny: Model, greedy_text: list[int], seed: int) -> None:
    assert run(tiny, RandomDrafter(seed))[0] == greedy_text


@pytest.mark.parametrize("options", SAMPLED, ids=range(len(SAMPLED)))
def test_a_sampled_text_is_the_same_with_every_drafter_and_with_none(model: Model, options: SamplingOptions) -> None:
    truth = plain_text(model, options, 16)
    assert run(model, PlainDrafter(), options=options)[0] == truth
    assert run(model, RandomDrafter(0), options=options)[0] == truth
    for plan in ([(16, 0)], [(0, 3)] * 16, [(1, 1)] * 16, [(3, 2), (0, 0), (2, 1)] * 5):
        assert run(model, ScriptedDrafter(truth, iter(plan)), options=options)[0] == truth


def test_another_seed_gives_another_text(tiny: Model) -> None:
    texts = {tuple(plain_text(tiny, SamplingOptions(temperature=1.0, seed=seed), 8)) for seed in range(4)}
    assert len(texts) == 4


def test_right_guesses_save_model_calls(tiny: Model, greedy_text: list[int]) -> None:
    _, steps = run(tiny, ScriptedDrafter(greedy_text, iter([(4, 0), (4, 2), (0, 4)] * 9)))
    assert [len(step.token_ids) for step in steps] == [5, 5, 1, 5]
    assert [step.num_drafted for step in steps] == [4, 6, 4, 4]


def test_logits_of_a_step_are_those_its_tokens_were_chosen_from(tiny: Model, greedy_text: list[int]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    accept = match(sampler_for(GREEDY), sequence.token_ids)
    drafter = ScriptedDrafter(greedy_text, iter([(3, 2)] * 9))
    for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=16, stop_ids=()):
        assert step.logits[: len(step.token_ids)].argmax(axis=1).tolist() == step.token_ids


# Where a text ends


@pytest.mark.parametrize("at", [0, 1, 2, 5, 9, 15])
@pytest.mark.parametrize("plan", [[], [(16, 0)], [(2, 2)] * 16, [(0, 4)] * 16])
def test_a_stop_token_ends_the_text_wherever_it_stands_in_a_draft(
    tiny: Model, greedy_text: list[int], at: int, plan: list[tuple[int, int]]
) -> None:
    stop_id = greedy_text[len(PROMPT) + at]
    wanted = greedy_text[: greedy_text.index(stop_id, len(PROMPT)) + 1]
    text, steps = run(tiny, ScriptedDrafter(greedy_text, iter(plan)), stop_ids={stop_id, 306})
    assert text == wanted
    assert steps[-1].token_ids[-1] == stop_id


def test_a_wrongly_guessed_stop_token_ends_nothing(tiny: Model, greedy_text: list[int]) -> None:
    stop_id = next(token_id for token_id in range(VOCAB_SIZE) if token_id not in greedy_text)

    class StopGuesser:
        def propose(self, history: SequenceOf[int], *, limit: int) -> Draft:
            return Draft.chain([stop_id] * min(limit, 3), source="stop")

    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    accept = match(sampler_for(GREEDY), sequence.token_ids)
    list(decode(sequence, drafter=StopGuesser(), accept=accept, max_new_tokens=16, stop_ids={stop_id}))
    assert sequence.token_ids == greedy_text


@pytest.mark.parametrize("plan", [[], [(16, 0)], [(3, 0)] * 9, [(2, 2)] * 16])
@pytest.mark.parametrize("min_new_tokens", [1, 6])
def test_a_stop_token_is_not_chosen_before_its_time(
    tiny: Model, greedy_text: list[int], plan: list[tuple[int, int]], min_new_tokens: int
) -> None:
    stop_ids = set(greedy_text[len(PROMPT) : len(PROMPT) + 3])
    options = SamplingOptions(min_new_tokens=min_new_tokens)
    truth = plain_text(tiny, options, 16, stop_ids)
    assert len(truth) - len(PROMPT) >= min_new_tokens
    assert not stop_ids & set(truth[len(PROMPT) : len(PROMPT) + min_new_tokens - 1])
    assert run(tiny, ScriptedDrafter(truth, iter(plan)), options=options, stop_ids=stop_ids)[0] == truth


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("plan", [[], [(16, 0)] * 9, [(2, 9)] * 9])
def test_the_limit_of_new_tokens_holds_inside_a_draft(
    tiny: Model, greedy_text: list[int], max_new_tokens: int, plan: list[tuple[int, int]]
) -> None:
    drafter = ScriptedDrafter(greedy_text, iter(plan))
    text, steps = run(tiny, drafter, max_new_tokens=max_new_tokens)
    assert text == greedy_text[: len(PROMPT) + max_new_tokens]
    made = np.cumsum([0, *(len(step.token_ids) for step in steps[:-1])])
    assert drafter.limits == (max_new_tokens - 1 - made).tolist()


@pytest.mark.parametrize("plan", [[], [(16, 0)], [(5, 9)] * 9])
def test_a_text_may_fill_the_context_to_the_last_token(
    tiny: Model, greedy_text: list[int], plan: list[tuple[int, int]]
) -> None:
    drafter = ScriptedDrafter(greedy_text, iter(plan))
    assert run(tiny, drafter, max_new_tokens=7, context_length=len(PROMPT) + 7)[0] == greedy_text[: len(PROMPT) + 7]


def test_a_text_that_could_outgrow_the_context_is_refused_before_any_work(tiny: Model, greedy_text: list[int]) -> None:
    drafter = ScriptedDrafter(greedy_text, iter([]))
    with pytest.raises(CacheFull, match="cache holds 11 tokens, 12 needed"):
        run(tiny, drafter, max_new_tokens=8, context_length=len(PROMPT) + 7)
    assert drafter.limits == []


def test_a_drafter_that_guesses_more_than_it_may_is_refused(tiny: Model) -> None:
    class Greedy:
        def propose(self, history: SequenceOf[int], *, limit: int) -> Draft:
            return Draft.chain([3] * (limit + 1), source="greedy")

    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    steps = decode(
        sequence,
        drafter=Greedy(),
        accept=match(sampler_for(GREEDY), sequence.token_ids),
        max_new_tokens=5,
        stop_ids=(),
    )
    with pytest.raises(ConfigError, match="greedy proposed 5 tokens, 4 were asked for"):
        next(steps)


def test_a_loop_that_is_left_early_leaves_a_sequence_that_goes_on(tiny: Model, greedy_text: list[int]) -> None:
    sequence = tiny.new_sequence()
    sequence.append(PROMPT)
    for plan in ([(2, 2)], [(0, 3)], [], [(9, 0)]):
        steps = decode(
            sequence,
            drafter=ScriptedDrafter(greedy_text, iter(plan)),
            accept=match(sampler_for(GREEDY), sequence.token_ids),
            max_new_tokens=16 + len(PROMPT) - len(sequence.token_ids),
            stop_ids=(),
        )
        next(steps)
        steps.close()
        sequence.check()
        assert sequence.token_ids == greedy_text[: len(sequence.token_ids)]
    assert len(sequence.token_ids) == len(PROMPT) + 3 + 1 + 1 + 10

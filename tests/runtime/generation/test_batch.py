"""Several prompts at once: each gets the text that it gets alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, stream, stream_batch
from skipstone.runtime.sampling import SamplingOptions

WithStopIds = Callable[[Model, Collection[int]], Model]
random = np.random.default_rng(0)
PROMPTS: list[list[int]] = [random.integers(3, 300, size=length).tolist() for length in (5, 1, 23, 2, 5, 11)]


def alone(model: Model, prompt: SequenceOf[int], options: GenerationOptions) -> Generation:
    sequence = model.new_sequence()
    sequence.append(prompt)
    return Generation.join(list(stream(model, sequence, options)))


def together(
    model: Model,
    prompts: SequenceOf[SequenceOf[int]],
    options: GenerationOptions,
    *,
    context_length: int | None = None,
) -> list[Generation]:
    pieces: list[list[Piece]] = [[] for _ in prompts]
    for index, piece in stream_batch(model, prompts, options, context_length=context_length):
        assert not pieces[index] or pieces[index][-1].finish_reason is None, "a text went on after its end"
        pieces[index].append(piece)
    return [Generation.join(of_prompt) for of_prompt in pieces]


def assert_same(found: SequenceOf[Generation], wanted: SequenceOf[Generation]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        assert one.prompt_tokens == other.prompt_tokens
        for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
            assert mine.token_id == theirs.token_id
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(max_new_tokens=16, logprobs=2),
        GenerationOptions(max_new_tokens=16, sampling=SamplingOptions(temperature=1.0, seed=7)),
        GenerationOptions(max_new_tokens=16, sampling=SamplingOptions(temperature=1.0, repetition_penalty=1.3, seed=8)),
        GenerationOptions(max_new_tokens=1),
    ],
    ids=["greedy", "sampled", "with history", "one token"],
)
def test_each_prompt_of_a_batch_gets_the_text_it_gets_alone(model: Model, options: GenerationOptions) -> None:
    assert_same(together(model, PROMPTS, options), [alone(model, prompt, options) for prompt in PROMPTS])


@given(prompts=st.lists(st.lists(st.integers(0, 306), min_size=1, max_size=9), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_any_prompts_make_a_batch(tiny: Model, prompts: list[list[int]]) -> None:
    options = GenerationOptions(max_new_tokens=4)
    assert_same(together(tiny, prompts, options), [alone(tiny, prompt, options) for prompt in prompts])


def test_texts_may_end_at_different_times_for_different_reasons(model: Model, with_stop_ids: WithStopIds) -> None:
    free = [alone(model, prompt, GenerationOptions(max_new_tokens=12)) for prompt in PROMPTS]
    stopping = with_stop_ids(model, {free[0].token_ids[0], free[1].token_ids[4], free[2].token_ids[9]})
    stops = tuple(text for text in (free[3].text[3:5], free[4].text[6:8]) if text)
    options = GenerationOptions(max_new_tokens=12, stop=stops)
    wanted = [alone(stopping, prompt, options) for prompt in PROMPTS]
    assert len({len(generation.token_ids) for generation in wanted}) >= 3
    assert_same(together(stopping, PROMPTS, options), wanted)


def test_a_prompt_may_come_twice(tiny: Model) -> None:
    options = GenerationOptions(max_new_tokens=8, sampling=SamplingOptions(temperature=1.0, seed=1))
    first, second, _ = together(tiny, [PROMPTS[0], PROMPTS[0], PROMPTS[2]], options)
    assert first.token_ids == second.token_ids


def test_pieces_come_in_turns_until_each_text_has_ended(tiny: Model, with_stop_ids: WithStopIds) -> None:
    options = GenerationOptions(max_new_tokens=3)
    stopping = with_stop_ids(tiny, {alone(tiny, PROMPTS[1], options).token_ids[0]})
    lengths = [len(alone(stopping, prompt, options).token_ids) for prompt in PROMPTS[:3]]
    assert lengths[1] == 1
    turns = [index for index, _ in stream_batch(stopping, PROMPTS[:3], options)]
    assert turns == [index for turn in range(3) for index in range(3) if turn < lengths[index]]


def test_one_model_call_makes_a_token_for_every_text(
    tiny: Model, with_stop_ids: WithStopIds, fed: list[tuple[int, ...]]
) -> None:
    assert tiny.rounding.is_free
    fed.clear()
    together(with_stop_ids(tiny, ()), PROMPTS, GenerationOptions(max_new_tokens=4))
    assert fed == [(4, 5), (1, 23), (1, 11)] + [(6, 1)] * 3, "prompts of 5, 1, 2 and 5 tokens go together"


def test_an_empty_prompt_is_refused(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="the text is empty"):
        together(tiny, [[5, 6], []], GenerationOptions(max_new_tokens=4))


def test_every_text_may_fill_the_context(tiny: Model) -> None:
    options = GenerationOptions(max_new_tokens=8)
    found = together(tiny, PROMPTS[:3], options, context_length=23 + 8)
    assert_same(found, [alone(tiny, prompt, options) for prompt in PROMPTS[:3]])


def test_a_batch_with_one_prompt_too_long_is_refused_before_any_work(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    with pytest.raises(CacheFull, match="cache holds 30 tokens, 31 needed"):
        next(stream_batch(tiny, PROMPTS[:3], GenerationOptions(max_new_tokens=8), context_length=30))
    assert fed == []


def test_a_batch_cannot_be_exact(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match="a batch cannot be exact"):
        next(stream_batch(tiny, PROMPTS, GenerationOptions(max_new_tokens=4, exact=True)))
    assert fed == []


@pytest.mark.parametrize("options", [{"exact": True}, {"decode": "ngram"}, {"decode": "ngram,suffix", "exact": True}])
def test_prompts_that_cannot_be_decoded_together_get_their_texts_one_after_the_other(
    tiny: Model, fed: list[tuple[int, ...]], options: dict[str, Any]
) -> None:
    language_model = LanguageModel(tiny)
    prompts = ["def add(", "class"]
    wanted = [language_model.generate(prompt, max_new_tokens=6, **options) for prompt in prompts]
    assert_same(language_model.generate(prompts, max_new_tokens=6, **options), wanted)
    assert {size for size, _ in fed} == {1}


def test_stats_are_those_of_each_text(tiny: Model, with_stop_ids: WithStopIds) -> None:
    found = together(with_stop_ids(tiny, ()), PROMPTS, GenerationOptions(max_new_tokens=8))
    for generation, prompt in zip(found, PROMPTS, strict=True):
        stats = generation.stats
        assert (stats.prompt_tokens, stats.new_tokens, stats.model_calls) == (len(prompt), 8, 8)
        assert stats.ttft_s > 0 and stats.decode_tokens_per_s > 0
        assert stats.prefill_tokens_per_s == pytest.approx(len(prompt) / stats.ttft_s)


def test_a_list_of_prompts_gives_a_list_of_generations(tiny: Model) -> None:
    language_model = LanguageModel(tiny)
    prompts = ["def add(", "class", "The quick brown fox jumps"]
    wanted = [language_model.generate(prompt, max_new_tokens=6, stop=["q"]) for prompt in prompts]
    assert_same(language_model.generate(prompts, max_new_tokens=6, stop=["q"]), wanted)
    assert language_model.generate([], max_new_tokens=6) == []

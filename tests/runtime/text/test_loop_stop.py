"""Where a text ends that says the same over and over: at the same token with every method, and nowhere when off."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import pytest
from command_line import CommandLine
from decoding import PROMPT, WildDrafter
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions, stream, stream_batch
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.text import CHAT_STOP_LOOPS, LoopStop

WithStopIds = Callable[[Model, Collection[int]], Model]

# Few tokens, or runs of a pattern, so that loops are common.
few = st.lists(st.integers(0, 1), max_size=40)
runs = st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 9)), max_size=5).map(
    lambda parts: [token_id for pattern, times in parts for token_id in pattern * times]
)


def first_loop(token_ids: SequenceOf[int], longest: int) -> int | None:
    """The obvious way: return how many tokens stand when the last ones first are a loop."""
    for length in range(1, len(token_ids) + 1):
        for period in range(1, longest + 1):
            size = max(4 * period, 2 * longest)
            end = token_ids[max(length - size, 0) : length]
            if len(end) == size and all(end[place] == end[place - period] for place in range(period, size)):
                return length
    return None


@settings(max_examples=300)
@given(token_ids=st.one_of(few, runs), longest=st.integers(1, 8))
def test_a_text_ends_where_its_last_tokens_are_the_same_few_four_times_or_more(
    token_ids: list[int], longest: int
) -> None:
    loop = LoopStop(longest)
    found = next((length for length, token_id in enumerate(token_ids, start=1) if loop.push(token_id)), None)
    assert found == first_loop(token_ids, longest)


def test_zero_never_ends_a_text() -> None:
    loop = LoopStop(0)
    assert not any(loop.push(7) for _ in range(1000))


def test_what_a_chat_may_well_say_is_no_loop_to_it() -> None:
    loop = LoopStop(CHAT_STOP_LOOPS)
    table = [1, 2] * 12 + [3] + [4, 5, 6, 7, 8, 3] * 6  # a ruled head, then rows that are alike
    line, item = [9] * 60 + [3], [10, 11, 12, 13, 3] * 8
    assert not any(loop.push(token_id) for token_id in table + line + item + [14] + [15, 3] * 30)
    sentence = range(20, 20 + CHAT_STOP_LOOPS)
    assert [loop.push(token_id) for token_id in [*sentence] * 4].index(True) == 4 * CHAT_STOP_LOOPS - 1


@pytest.mark.parametrize("value", [-1, 1.5, True, "8"])
def test_what_is_no_length_of_a_loop_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="stop_loops must be"):
        GenerationOptions(stop_loops=value)  # type: ignore[arg-type]


# In a text


def looping(model: Model, *token_ids: int) -> SamplingOptions:
    """Return options with which a model says these tokens only, each with a chance."""
    others = tuple(set(range(model.manifest.dimensions.vocab_size)) - set(token_ids))
    return SamplingOptions(banned_ids=others, temperature=1.0, seed=5)


def written(model: Model, options: GenerationOptions, **given: object) -> Generation:
    sequence = model.new_sequence(exact=options.exact)
    sequence.append(PROMPT)
    made = Generation.join(list(stream(model, sequence, options, **given)))  # type: ignore[arg-type]
    assert sequence.token_ids == [*PROMPT, *made.token_ids]
    sequence.check()
    return made


@pytest.mark.parametrize(
    ("decode", "exact"),
    [
        ("plain", False),
        ("auto", False),
        ("ngram", True),
        ("suffix,recycle", True),
        ("jacobi", True),
        ("lookahead", False),
    ],
)
def test_every_method_ends_a_loop_at_the_same_token(
    tiny: Model, with_stop_ids: WithStopIds, decode: str, exact: bool
) -> None:
    model = with_stop_ids(tiny, ())
    options = GenerationOptions(max_new_tokens=60, sampling=looping(model, 50, 51), decode=decode, exact=exact)
    whole = written(model, options)
    length = first_loop(whole.token_ids, 2)
    assert length is not None and whole.finish_reason == "length"
    made = written(model, replace(options, stop_loops=2))
    assert (made.token_ids, made.finish_reason) == (whole.token_ids[:length], "loop")
    assert made.text == model.tokenizer.decode(made.token_ids)
    assert made.stats.new_tokens == length


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.3, 1), longest=st.integers(1, 3), branches=st.booleans())
def test_a_draft_that_runs_past_the_end_is_cut_there(
    tiny_stages: Model, seed: int, share: float, longest: int, branches: bool
) -> None:
    sampling = replace(looping(tiny_stages, 50, 51), seed=seed)
    options = GenerationOptions(max_new_tokens=40, sampling=sampling, decode="plain")
    whole = written(tiny_stages, options).token_ids
    drafter = WildDrafter([*PROMPT, *whole], seed, branches=branches, share=share)
    made = written(tiny_stages, replace(options, stop_loops=longest), drafter=drafter)
    length = first_loop(whole, longest)
    assert made.token_ids == whole[:length]
    assert made.finish_reason == ("length" if length is None else "loop")


def test_the_prompt_is_no_part_of_a_loop(tiny: Model, with_stop_ids: WithStopIds) -> None:
    model = with_stop_ids(tiny, ())
    sequence = model.new_sequence()
    sequence.append([50] * 20)
    options = GenerationOptions(max_new_tokens=20, sampling=looping(model, 50), stop_loops=3)
    made = Generation.join(list(stream(model, sequence, options)))
    assert (len(made.token_ids), made.finish_reason) == (6, "loop")


def test_in_a_batch_each_text_ends_where_it_ends_alone(tiny: Model, with_stop_ids: WithStopIds) -> None:
    model = with_stop_ids(tiny, ())
    options = GenerationOptions(max_new_tokens=30, sampling=looping(model, 50, 51), stop_loops=2, decode="plain")
    prompts, found = [[1, 50, 60], [1, 70], [1, 51, 52, 53]], dict[int, list[int]]()
    reasons = {}
    for index, piece in stream_batch(model, prompts, options):
        found.setdefault(index, []).extend(piece.token_ids)
        reasons[index] = piece.finish_reason
    for index, prompt in enumerate(prompts):
        sequence = model.new_sequence()
        sequence.append(prompt)
        alone = Generation.join(list(stream(model, sequence, options)))
        assert (tuple(found[index]), reasons[index]) == (alone.token_ids, alone.finish_reason)
    assert "loop" in reasons.values()


def test_samples_end_where_each_loops(tiny: Model, with_stop_ids: WithStopIds) -> None:
    model = with_stop_ids(tiny, ())
    sampling = looping(model, 50, 51)
    options = {"banned_ids": sampling.banned_ids, "temperature": 1.0, "seed": 5, "max_new_tokens": 40}
    whole = list(LanguageModel(model).samples("def", 3, **options))
    made = list(LanguageModel(model).samples("def", 3, stop_loops=2, **options))
    assert [sample.token_ids for sample in made] == [
        sample.token_ids[: first_loop(sample.token_ids, 2)] for sample in whole
    ]


def test_a_stop_token_or_a_stop_string_at_the_same_place_is_the_reason(tiny: Model, with_stop_ids: WithStopIds) -> None:
    model = with_stop_ids(tiny, ())
    options = GenerationOptions(max_new_tokens=20, sampling=looping(model, 50), stop_loops=2)
    text = written(model, options).text
    assert written(model, replace(options, stop=(text,))).finish_reason == "stop"
    stopping = with_stop_ids(tiny, {50})
    assert written(stopping, options).finish_reason == "stop"
    assert written(model, replace(options, max_new_tokens=4)).finish_reason == "loop"


# The command line


def test_generate_ends_a_loop_where_asked_and_only_there(cli: CommandLine, tiny: Model) -> None:
    command = ("generate", tiny.bundle.path, "-p", "def", "-n", 40, "--json")
    free = json.loads(cli(*command).out)
    assert free["finish_reason"] != "loop"
    ended = json.loads(cli(*command, "--repetition-penalty", 0.01, "--stop-loops", 2).out)
    assert (ended["finish_reason"], len(ended["token_ids"])) == (
        "loop",
        first_loop(json.loads(cli(*command, "--repetition-penalty", 0.01).out)["token_ids"], 2),
    )


def test_a_chat_ends_a_loop_and_says_how_to_let_it_run(cli: CommandLine, tiny: Model) -> None:
    command = ("chat", tiny.bundle.path, "-n", 100, "--temperature", 0, "--repetition-penalty", 0.01)
    outcome = cli(*command, stdin="def\n")
    assert "the answer fell into a loop and was ended; --stop-loops 0 lets it run" in outcome.err
    assert "64 tokens at" in outcome.err
    assert "loop" not in cli(*command, "--stop-loops", 0, stdin="def\n").err

"""Look-ahead and cautious texts: against the slow way through fresh sequences, and what both keep to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, PROMPT, plain_text, sampler_for
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import ApproximateContext, method_named
from skipstone.runtime.methods.search.cautious import ends_clause, num_trials
from skipstone.runtime.sampling import SamplingOptions, draft_seed, entropy_nats, logprob_of

DRAWN = SamplingOptions(temperature=0.8, top_p=0.9, seed=3)
PENALIZED = SamplingOptions(repetition_penalty=1.5, no_repeat_ngram=2)
BORDER = 4.8  # nats, which some rows of the tiny models exceed
CASES = [("adadec", BORDER, GREEDY), ("adadec", BORDER, PENALIZED), ("cautious", 3.0, DRAWN)]
Row = NDArray[np.float32]


@pytest.fixture(scope="session", params=["tree", "forks"])
def model(
    request: pytest.FixtureRequest, tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Model:
    """Where layers see a window only, texts that are tried have a cache each."""
    if request.param == "forks":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=50)))
    return tiny


def steps_of(model: Model, name: str, dial: float, options: SamplingOptions, **changes: Any) -> list[Step]:
    """Return the steps; checks what holds for any of them."""
    num_tokens, stop_ids = changes.pop("num_tokens", 24), changes.pop("stop_ids", ())
    sequence, made, steps = model.new_sequence(**changes), [*PROMPT], []
    sequence.append(PROMPT)
    context = ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_for(options, stop_ids),
        setting=dial,
        max_new_tokens=num_tokens,
        stop_ids=stop_ids,
    )
    for step in method_named(name).open(context).steps:
        sequence.check()
        made += step.token_ids
        assert sequence.token_ids == made
        assert step.logits.shape == (len(step.token_ids), 307) and step.num_calls >= 1
        steps.append(replace(step, logits=step.logits.copy()))
    return steps


def text_of(*args: Any, **changes: Any) -> list[int]:
    return [*PROMPT, *(token_id for step in steps_of(*args, **changes) for token_id in step.token_ids)]


def logits_after(model: Model, text: list[int]) -> Row:
    sequence = model.new_sequence()
    sequence.append(text)
    return sequence.extend(Draft.empty())[0].copy()


def entropy(row: Row) -> float:
    return float(entropy_nats(row[None].astype(np.float64))[0])


# The slow ways


def slow_adadec(model: Model, options: SamplingOptions, num_tokens: int, stop_ids: tuple[int, ...] = ()) -> list[int]:
    sampler, text = sampler_for(options, stop_ids), [*PROMPT]
    while len(text) < len(PROMPT) + num_tokens and text[-1] not in stop_ids:
        row = logits_after(model, text)
        if entropy(row) <= BORDER:
            text.append(sampler.choose(row, text))
            continue
        means = {}
        for candidate in np.argsort(-sampler.processed(row, text), kind="stable")[:3].tolist():
            run, logprobs = [candidate], [logprob_of(row, candidate)]
            while len(run) < 6 and run[-1] not in stop_ids:
                behind = logits_after(model, [*text, *run])
                run.append(sampler.choose(behind, [*text, *run]))
                logprobs.append(logprob_of(behind, run[-1]))
            means[candidate] = float(np.mean(logprobs))
        text.append(max(means, key=lambda one: means[one]))
    return text


def slow_cautious(model: Model, options: SamplingOptions, num_tokens: int, stop_ids: tuple[int, ...] = ()) -> list[int]:
    text = [*PROMPT]
    while len(text) < len(PROMPT) + num_tokens and text[-1] not in stop_ids:
        row, seed = logits_after(model, text), options.seed
        assert seed is not None
        count = num_trials(entropy(row), 3.0)
        runs = []
        for number in range(count):
            sampler = sampler_for(replace(options, seed=draft_seed(seed, number) if number else seed), stop_ids)
            run: list[int] = []
            logprobs: list[float] = []
            while not run or not (
                run[-1] in stop_ids or len(run) > 20 or ends_clause(model.tokenizer.decode(run[-1:]))
            ):
                behind = logits_after(model, [*text, *run])
                run.append(sampler.choose(behind, [*text, *run]))
                logprobs.append(logprob_of(behind, run[-1]))
                if count == 1:
                    break
            runs.append((float(np.mean(logprobs)), run))
        text += max(runs, key=lambda one: one[0])[1]
    return text[: len(PROMPT) + num_tokens]


@pytest.mark.parametrize("options", [GREEDY, PENALIZED])
def test_adadec_takes_the_token_whose_continuation_is_the_likeliest(model: Model, options: SamplingOptions) -> None:
    steps = steps_of(model, "adadec", BORDER, options)
    assert (
        text_of(model, "adadec", BORDER, options) == slow_adadec(model, options, 24) != plain_text(model, options, 24)
    )
    assert 6 in {step.num_calls for step in steps} <= {1, 6} and any(len(step.token_ids) > 1 for step in steps)


def test_cautious_keeps_the_likeliest_of_its_trials(model: Model) -> None:
    assert text_of(model, "cautious", 3.0, DRAWN) == slow_cautious(model, DRAWN, 24) != plain_text(model, DRAWN, 24)


@pytest.mark.parametrize(("name", "dial", "options"), CASES)
def test_every_token_stands_beside_the_logits_behind_the_text_before_it(
    model: Model, name: str, dial: float, options: SamplingOptions
) -> None:
    text = [*PROMPT]
    for step in steps_of(model, name, dial, options):
        for token_id, row in zip(step.token_ids, step.logits, strict=True):
            np.testing.assert_allclose(row, logits_after(model, text), atol=1e-3)
            text.append(token_id)


@pytest.mark.parametrize(("name", "options"), [("adadec", GREEDY), ("adadec", PENALIZED), ("cautious", DRAWN)])
@pytest.mark.parametrize("exact", [False, True])
def test_at_the_plain_end_the_text_is_plain_decodings(
    tiny: Model, name: str, options: SamplingOptions, exact: bool
) -> None:
    plain = method_named(name).dial.plain
    assert text_of(tiny, name, plain, options, exact=exact) == plain_text(tiny, options, 24)


@pytest.mark.parametrize(("name", "dial", "options"), CASES)
def test_a_shorter_text_is_the_beginning_of_a_longer_one(
    tiny: Model, name: str, dial: float, options: SamplingOptions
) -> None:
    whole = text_of(tiny, name, dial, options)
    for num_tokens in (1, 2, 7, 23):
        assert text_of(tiny, name, dial, options, num_tokens=num_tokens) == whole[: len(PROMPT) + num_tokens]


@pytest.mark.parametrize(("name", "dial", "options"), CASES)
def test_a_stop_token_ends_the_text_as_in_the_slow_way(
    tiny: Model, name: str, dial: float, options: SamplingOptions
) -> None:
    slow = slow_adadec if name == "adadec" else slow_cautious
    whole = text_of(tiny, name, dial, options)
    for stop_id in {whole[8], whole[15], whole[20]}:
        found = text_of(tiny, name, dial, options, stop_ids=(stop_id,))
        assert found == slow(tiny, options, 24, (stop_id,))


@pytest.mark.parametrize(("name", "dial", "options"), CASES)
@pytest.mark.parametrize("room", [24, 26, 60])
def test_a_context_that_just_holds_the_text_is_enough(
    tiny: Model, name: str, dial: float, options: SamplingOptions, room: int
) -> None:
    found = text_of(tiny, name, dial, options, context_length=len(PROMPT) + room)
    assert len(found) == len(PROMPT) + 24
    assert room < 60 or found == text_of(tiny, name, dial, options)


# The parts


@given(st.floats(0, 12), st.floats(1, 64))
def test_trials_grow_with_the_entropy_from_one_to_the_most(entropy: float, most: float) -> None:
    assert 1 <= num_trials(entropy, most) <= math.ceil(most)
    assert num_trials(0.0, most) == num_trials(entropy, 1.0) == 1
    assert num_trials(1.5, most) == round(most) == num_trials(12.0, most)
    assert num_trials(0.755, 10) == round(5.5)


@pytest.mark.parametrize("text", [".", "end.\n", "\n\n", ",", "。", "؟", "।", "？", ");", " :"])
def test_a_clause_ends_at_a_mark_of_any_script(text: str) -> None:
    assert ends_clause(text)


@settings(max_examples=50)
@given(st.text(st.characters(categories=["L", "N", "Z", "S", "Pd", "Ps", "Pe"]), max_size=4))
def test_a_clause_does_not_end_at_letters_brackets_or_dashes(text: str) -> None:
    assert not ends_clause(text) and not ends_clause("it's") and not ends_clause("#")


# For users


def test_stop_strings_limits_and_figures_are_as_for_any_text(tiny: Model) -> None:
    model = LanguageModel(tiny)
    options: dict[str, Any] = {"decode": "cautious", "dial": 4, "temperature": 0.8, "seed": 1, "max_new_tokens": 40}
    made = model.generate("def f(", **options)
    assert made.stats.seed == 1 and made.stats.model_calls > 1
    assert made.stats.approximate == (
        "cautious, the likeliest of up to 4 trials: agreement not calibrated; the text comes by clauses"
    )
    cut = model.generate("def f(", stop=(made.text[9:12],), **options)
    assert cut.finish_reason == "stop" and cut.text == made.text[: made.text.index(made.text[9:12])]
    assert [one.stats.seed for one in model.samples("def f(", 2, **options)] == [1, 2]
    looked = model.generate("def f(", decode="adadec", dial=BORDER, max_new_tokens=12, logprobs=1)
    assert len(looked.logprobs) == len(looked.token_ids) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "cautious", "dial": 4}, "draws several times and keeps one, and at temperature 0 all are the same"),
        ({"decode": "adadec", "dial": 2, "temperature": 0.5}, "without chance, got temperature 0.5"),
        ({"decode": "cautious", "dial": 0, "temperature": 1.0}, "must be between 1 and 64, got 0"),
        ({"decode": "cautious", "temperature": 1.0}, "say how close it must stay"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LanguageModel(tiny).generate("x", **options)

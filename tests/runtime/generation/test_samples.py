"""Several texts of one prompt: the first that end, the best, the majority, and how many solve a task."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation
from skipstone.runtime.generation.samples import Coverage, Samples

PROMPT = "def add("
OPTIONS: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def generation(tiny: Model) -> Generation:
    return LanguageModel(tiny).generate(PROMPT, max_new_tokens=2)


def texts(generation: Generation, *words: str) -> Samples:
    return Samples(replace(generation, text=word) for word in words)


def stops_of(model: Model, count: int) -> tuple[str, ...]:
    """Return letters that end some of the texts early, each at another place."""
    whole = [made.text for made in LanguageModel(model).samples(PROMPT, count, **OPTIONS)]
    return tuple({text[place] for place, text in enumerate(whole[1:], start=2) if len(text) > place})


def test_the_first_texts_to_end_are_those_that_the_seeds_give_alone(model: Model) -> None:
    language_model, stop = LanguageModel(model), stops_of(model, 5)
    alone = list(language_model.samples(PROMPT, 5, stop=stop, logprobs=1, **OPTIONS))
    order = sorted(range(5), key=lambda number: (len(alone[number].token_ids), number))
    for first in (1, 3, 5):
        found = list(language_model.samples(PROMPT, 5, first=first, stop=stop, logprobs=1, **OPTIONS))
        assert [made.stats.seed for made in found] == [5 + number for number in order[:first]]
        for made, number in zip(found, order, strict=False):
            same = ("text", "token_ids", "finish_reason", "prompt_tokens")
            assert all(getattr(made, name) == getattr(alone[number], name) for name in same)
            assert made.logprobs[-1].logprob == pytest.approx(alone[number].logprobs[-1].logprob, abs=1e-4)
            assert made.stats.model_calls == len(made.token_ids)


def test_texts_that_lose_are_not_decoded_to_their_end(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    stop = stops_of(tiny, 5)
    fed.clear()
    (found,) = LanguageModel(tiny).samples(PROMPT, 5, first=1, stop=stop, **OPTIONS)
    assert len(fed) == len(found.token_ids) < OPTIONS["max_new_tokens"]


def test_exact_texts_have_the_bits_of_plain_decoding(tiny: Model) -> None:
    options = {**OPTIONS, "exact": True, "logprobs": 1}
    found = list(LanguageModel(tiny).samples(PROMPT, 3, first=3, **options))
    for made, alone in zip(found, LanguageModel(tiny).samples(PROMPT, 3, **options), strict=True):
        assert (made.token_ids, made.logprobs) == (alone.token_ids, alone.logprobs)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"first": 0}, "first must be 1 to the 4 samples, got 0"),
        ({"first": 5}, "first must be 1 to the 4 samples, got 5"),
        ({"first": 2, "decode": "ngram"}, "decoded without drafts, got decode ngram"),
        ({"first": 2, "complete_words": True}, "complete_words gives each its own"),
    ],
)
def test_what_texts_side_by_side_cannot_be_is_refused(tiny: Model, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LanguageModel(tiny).samples(PROMPT, 4, **OPTIONS, **options)


def test_samples_are_made_as_they_are_asked_for_until_they_are_closed(generation: Generation) -> None:
    made: list[str] = []

    def making() -> Any:
        for word in "abc":
            made.append(word)
            yield replace(generation, text=word)

    samples = Samples(making())
    assert (next(samples).text, made) == ("a", ["a"])
    samples.close()
    assert (list(samples), made) == ([], ["a"])
    assert samples.best(lambda text: len(text.text)).text == "a", "what was yielded is judged too"
    with pytest.raises(ConfigError, match="no text to judge"):
        texts(generation).best(lambda text: 1.0)


def test_texts_stay_where_a_judge_of_the_user_fails(generation: Generation) -> None:
    samples = texts(generation, "a", "bb")
    with pytest.raises(ZeroDivisionError):
        samples.best(lambda text: 1 / 0)
    assert samples.best(lambda text: len(text.text)).text == "bb"
    assert samples.vote(lambda text: text.text).num_texts == 2


def test_the_best_text_has_the_highest_score_and_comes_first(generation: Generation) -> None:
    assert texts(generation, "a", "ccc", "bbb").best(lambda made: len(made.text)).text == "ccc"
    with pytest.raises(ConfigError, match="no number"):
        texts(generation, "a").best(lambda made: float("nan"))


@pytest.mark.parametrize("score", [None, "5", [1.0], 1j])
def test_a_score_of_another_type_is_refused_in_one_line(generation: Generation, score: Any) -> None:
    with pytest.raises(ConfigError, match="no number"):
        texts(generation, "a").best(lambda made: score)


def test_the_majority_has_the_vote_and_texts_without_an_answer_have_none(generation: Generation) -> None:
    vote = texts(generation, "?", "7 a", "8 b", "7 c").vote(lambda made: made.text[0] if made.text != "?" else None)
    assert (vote.answer, vote.counts, vote.share) == ("7", {"7": 2, "8": 1}, 0.5)
    assert vote.generation is not None and vote.generation.text == "7 a"
    assert texts(generation, "x", "y").vote(lambda made: made.text).answer == "x", "of equal ones the first"
    nobody = texts(generation, "x").vote(lambda made: None)
    assert (nobody.answer, nobody.generation, nobody.share) == (None, None, 0.0)


@settings(deadline=None)
@given(solved=st.lists(st.booleans(), min_size=1, max_size=7), data=st.data())
def test_the_coverage_is_the_share_of_choices_that_hold_a_solution(
    generation: Generation, solved: list[bool], data: st.DataObject
) -> None:
    num_tries = data.draw(st.integers(1, len(solved)))
    choices = list(itertools.combinations(solved, num_tries))
    coverage = Coverage(generations=(generation,) * len(solved), is_solved=tuple(solved))
    assert coverage.at(num_tries) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_the_coverage_says_which_texts_solve_the_task(generation: Generation) -> None:
    coverage = texts(generation, "no", "yes", "yes!").coverage(lambda made: "yes" in made.text)
    assert [made.text for made in coverage.solved] == ["yes", "yes!"]
    assert coverage.at(1) == pytest.approx(2 / 3)
    for num_tries in (0, 4):
        with pytest.raises(ConfigError, match="1 to 3 tries"):
            coverage.at(num_tries)

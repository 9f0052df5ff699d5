"""Branches as suggestions: the best first tokens, each continued to what it would become alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

import skipstone
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.sampling import logprob_of, top_logprobs
from skipstone.runtime.suggest import Suggestion
from skipstone.runtime.suggest.branch import branch

WithStopIds = Callable[[Model, Collection[int]], Model]
PROMPT = "def add(first, second):"


def prompted(model: Model, prompt: str = PROMPT) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(prompt))
    return sequence


def alone(model: Model, first_id: int, num_tokens: int) -> tuple[tuple[int, ...], float]:
    """Return what the model makes of the prompt and a first token, and the mean log probability."""
    sequence, token_ids, logprobs = prompted(model), [], []
    while len(token_ids) < num_tokens and not (token_ids and token_ids[-1] in model.manifest.stop_ids):
        logits = sequence.extend(Draft.empty())[0]
        token_ids.append(int(logits.argmax()) if token_ids else first_id)
        logprobs.append(logprob_of(logits, token_ids[-1]))
        sequence.commit(token_ids[-1:])
    return tuple(token_ids), sum(logprobs) / len(logprobs)


def says(found: Suggestion, model: Model, token_ids: Collection[int]) -> bool:
    """Whether a suggestion has the text of these tokens, up to a character that is not whole at the end."""
    text = model.tokenizer.decode(list(token_ids))
    return text in (found.text, found.text + "\ufffd")


def suggest(model: Model, **options: Any) -> list[Suggestion]:
    return LanguageModel(model).suggest(PROMPT, method="branch", **options)


@pytest.mark.parametrize("num_drafts", [1, 2, 5])
def test_each_branch_is_the_greedy_text_behind_one_of_the_best_first_tokens(model: Model, num_drafts: int) -> None:
    firsts = [token_id for token_id, _ in top_logprobs(prompted(model).extend(Draft.empty())[0], num_drafts)]
    wanted = dict(alone(model, first_id, 8) for first_id in firsts)
    found = suggest(model, num_drafts=num_drafts, max_new_tokens=8)
    assert {suggestion.token_ids for suggestion in found} == set(wanted)
    for suggestion in found:
        assert suggestion.score == pytest.approx(wanted[suggestion.token_ids], abs=1e-4)
        assert says(suggestion, model, suggestion.token_ids)
    assert [suggestion.score for suggestion in found] == sorted((s.score for s in found), reverse=True)


def test_a_branch_ends_at_a_stop_token_and_the_others_go_on(tiny: Model, with_stop_ids: WithStopIds) -> None:
    usual = suggest(tiny, num_drafts=3, max_new_tokens=8)
    stop_id = usual[1].token_ids[3]
    found = suggest(with_stop_ids(tiny, [stop_id]), num_drafts=3, max_new_tokens=8)
    for before in usual:
        cut = before.token_ids.index(stop_id) + 1 if stop_id in before.token_ids else 8
        (after,) = (suggestion for suggestion in found if suggestion.token_ids == before.token_ids[:cut])
        kept = before.token_ids[: cut - 1 if after.token_ids[-1] == stop_id else cut]
        assert says(after, tiny, kept)


def test_drawn_branches_are_distinct_and_one_is_the_text_of_the_seed(tiny: Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "seed": 11}
    found = suggest(tiny, num_drafts=4, **options)
    assert len({suggestion.token_ids[0] for suggestion in found}) == 4
    assert LanguageModel(tiny).generate(PROMPT, **options).token_ids in {s.token_ids for s in found}
    assert found == suggest(tiny, num_drafts=4, **options)
    assert found != suggest(tiny, num_drafts=4, **{**options, "seed": 12})


def test_a_way_can_be_left_between_two_steps(tiny: Model) -> None:
    sequence, request = prompted(tiny), LanguageModel(tiny).suggest_request(num_drafts=2)
    steps = branch(sequence, request)
    next(steps)
    next(steps)
    steps.close()
    sequence.check()
    assert sequence.token_ids == prompted(tiny).token_ids
    assert sequence.num_waiting == 1


def test_a_suggestion_says_what_it_is_in_json(tiny: Model) -> None:
    (found,) = suggest(tiny, num_drafts=1, max_new_tokens=2)
    assert isinstance(found, skipstone.Suggestion)
    assert found.to_json() == {"text": found.text, "score": found.score, "token_ids": found.token_ids}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_drafts": 0}, "num_drafts must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"logprobs": 1}, "unknown option logprobs"),
        ({"method": "guess"}, "known are auto, branch"),
        ({"method": "branch", "ngrams": "my.ngrams"}, "branch reads no n-grams"),
    ],
)
def test_what_cannot_be_is_refused(tiny: Model, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LanguageModel(tiny).suggest(PROMPT, **options)

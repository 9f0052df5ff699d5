"""What every way of making drafts promises, whatever it does inside."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.suggest import Suggestion, SuggestRequest, suggest
from skipstone.runtime.suggest.ways import WAYS

WithStopIds = Callable[[Model, Collection[int]], Model]
PROMPT = "def add(first, second):"
EXACT = [name for name in ("branch", "beam", "diverse", "contrast") if name in WAYS]


def prompted(model: Model, **options: Any) -> Sequence:
    sequence = model.new_sequence(**options)
    sequence.append(model.tokenizer.encode(PROMPT))
    return sequence


def request_of(model: Model, **options: Any) -> SuggestRequest:
    return LanguageModel(model).suggest_request(**options)


def assert_same(found: list[Suggestion], wanted: list[Suggestion]) -> None:
    assert [(suggestion.text, suggestion.token_ids) for suggestion in found] == [(s.text, s.token_ids) for s in wanted]
    assert [suggestion.score for suggestion in found] == pytest.approx([s.score for s in wanted], abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_drafts_are_distinct_and_the_best_comes_first(model: Model, way: str) -> None:
    sequence = prompted(model)
    before, found = list(sequence.token_ids), suggest(sequence, request_of(model, num_drafts=4), method=way)
    assert 1 <= len({suggestion.token_ids for suggestion in found}) == len(found) <= 4
    assert [suggestion.score for suggestion in found] == sorted((s.score for s in found), reverse=True)
    assert all(1 <= len(suggestion.token_ids) <= 10 for suggestion in found)
    sequence.check()
    assert (sequence.token_ids, sequence.num_waiting) == (before, 1), "the next way reads one token, no prompt"
    assert_same(suggest(sequence, request_of(model, num_drafts=4), method=way), found)


@pytest.mark.parametrize("way", EXACT)
def test_all_drafts_are_there_where_texts_are_long_enough(model: Model, way: str) -> None:
    assert len(suggest(prompted(model), request_of(model, num_drafts=5, max_new_tokens=3), method=way)) == 5


@pytest.mark.parametrize("way", WAYS)
def test_one_token_of_one_draft_is_the_likeliest_or_nearly(tiny: Model, way: str) -> None:
    (found,) = LanguageModel(tiny).suggest(PROMPT, num_drafts=1, max_new_tokens=1, method=way)
    assert len(found.token_ids) == 1
    if way != "contrast":
        assert found.token_ids == LanguageModel(tiny).generate(PROMPT, max_new_tokens=1).token_ids


@pytest.mark.parametrize("way", WAYS)
def test_a_draft_ends_with_its_stop_token(tiny: Model, way: str, with_stop_ids: WithStopIds) -> None:
    usual = LanguageModel(tiny).suggest(PROMPT, num_drafts=3, method=way)
    stop_ids = {suggestion.token_ids[2] for suggestion in usual}
    found = LanguageModel(with_stop_ids(tiny, stop_ids)).suggest(PROMPT, num_drafts=3, method=way)
    assert way == "beam" or any(suggestion.token_ids[-1] in stop_ids for suggestion in found)
    assert not any(stop_ids & set(suggestion.token_ids[:-1]) for suggestion in found)


@pytest.mark.parametrize("way", WAYS)
def test_a_way_may_be_closed_after_any_step(tiny: Model, way: str) -> None:
    sequence, request = prompted(tiny), request_of(tiny, max_new_tokens=4)
    before = list(sequence.token_ids)
    for num_steps in range(8):
        steps = WAYS[way](sequence, request)
        for _ in zip(range(num_steps), steps, strict=False):
            pass
        steps.close()
        sequence.check()
        assert sequence.token_ids == before
    assert_same(suggest(sequence, request, method=way), suggest(prompted(tiny), request, method=way))


@pytest.mark.parametrize("way", WAYS)
def test_drafts_that_do_not_fit_are_refused(tiny: Model, way: str) -> None:
    length = len(prompted(tiny).token_ids)
    with pytest.raises(CacheFull):
        suggest(prompted(tiny, context_length=length + 3), request_of(tiny), method=way)
    fitting = prompted(tiny, context_length=length + 10)
    assert suggest(fitting, request_of(tiny, num_drafts=2), method=way)


@pytest.mark.parametrize("way", ["beam", "diverse", "contrast"])
def test_a_way_that_searches_refuses_a_temperature(tiny: Model, way: str) -> None:
    with pytest.raises(ConfigError, match=f"{way} draws nothing"):
        LanguageModel(tiny).suggest(PROMPT, method=way, temperature=0.7)


@pytest.mark.parametrize("way", EXACT)
def test_banned_tokens_stay_out(tiny: Model, way: str) -> None:
    usual = LanguageModel(tiny).suggest(PROMPT, method=way)
    banned = {token_id for suggestion in usual for token_id in suggestion.token_ids}
    for suggestion in LanguageModel(tiny).suggest(PROMPT, method=way, banned_ids=tuple(banned)):
        assert not banned & set(suggestion.token_ids)

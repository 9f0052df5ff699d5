"""Auto: which way it takes, and that it gives what that way gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.costs import CostCurve
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.suggest import SuggestRequest, choose_way, suggest
from skipstone.runtime.text import NgramCounts

PROMPT = "def add(first, second):"


def prompted(model: Model) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(PROMPT))
    return sequence


def asked(model: Model, *, row: float | None = None, **options: Any) -> SuggestRequest:
    """Return a request on a device on which a row more takes `row` of a plain step."""
    request = LanguageModel(model).suggest_request(**options)
    if row is None:
        return request
    curve = CostCurve(rows=(1, 16), contexts=(1,), seconds=((0.01, 0.01 * (1 + 15 * row)),))
    return replace(request, costs=curve)


def test_where_branches_are_cheap_drafts_that_differ_are_taken(tiny: Model) -> None:
    choice = choose_way(prompted(tiny), asked(tiny, row=0.2))
    assert choice.name == "branch" and "1.36 x" in choice.reason and "cost curve" in choice.reason


def test_where_branches_take_more_than_two_passes_one_pass_is_taken(tiny: Model) -> None:
    choice = choose_way(prompted(tiny), asked(tiny, row=1.0))
    assert choice.name == "superposed" and "2.80 x" in choice.reason


def test_more_drafts_take_longer(tiny: Model) -> None:
    names = [choose_way(prompted(tiny), asked(tiny, row=0.2, num_drafts=number)).name for number in (2, 8)]
    assert names == ["branch", "superposed"]


def test_without_a_cost_curve_costs_are_rough(tiny: Model) -> None:
    assert "rough" in choose_way(prompted(tiny), asked(tiny)).reason


def test_ngrams_that_are_given_are_used(tiny: Model) -> None:
    counts = NgramCounts()
    counts.add([1, 2, 3])
    request = asked(tiny, row=0.2, ngrams=counts.store(vocabulary="words"))
    assert choose_way(prompted(tiny), request).name == "superposed"
    assert suggest(prompted(tiny), request, method="auto") == suggest(prompted(tiny), request, method="superposed")


def test_a_model_says_which_way_it_would_take(tiny: Model) -> None:
    choice = LanguageModel(tiny).choose_way(PROMPT, num_drafts=8)
    assert choice == choose_way(prompted(tiny), asked(tiny, num_drafts=8))


def test_what_suggest_refuses_has_no_way(tiny: Model) -> None:
    model = LanguageModel(tiny)
    with pytest.raises(CacheFull):
        model.choose_way(PROMPT, max_new_tokens=10**6)
    with pytest.raises(ConfigError, match="ngrams must be a file"):
        model.choose_way(PROMPT, ngrams=5)


def test_drawn_drafts_and_a_single_one_are_branches(tiny: Model) -> None:
    assert choose_way(prompted(tiny), asked(tiny, row=1.0, temperature=0.8)).name == "branch"
    assert choose_way(prompted(tiny), asked(tiny, row=1.0, num_drafts=1)).name == "branch"


def test_a_bundle_that_takes_no_blends_gets_branches(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequence, "takes_blends", False)
    assert choose_way(prompted(tiny), asked(tiny, row=1.0)).name == "branch"


@pytest.mark.parametrize("row", [0.0, 1.0])
def test_auto_gives_what_the_way_gives(tiny: Model, row: float) -> None:
    request = asked(tiny, row=row)
    name = choose_way(prompted(tiny), request).name
    assert suggest(prompted(tiny), request, method="auto") == suggest(prompted(tiny), request, method=name)

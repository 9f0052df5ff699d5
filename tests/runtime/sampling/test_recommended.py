"""Tokens chosen as a model recommends, with single values changed, and a seed that is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.sampling import SamplingOptions, sampling_from, seeded


@pytest.mark.parametrize(
    ("said", "changes", "wanted"),
    [
        ({}, {}, {"temperature": 0.7, "top_p": 0.95, "min_p": 0.05}),
        ({"temperature": 0.6, "top_k": 20.0}, {}, {"temperature": 0.6, "top_k": 20}),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 1.2}, {"temperature": 1.2, "top_k": 20}),
        ({"min_p": 0.1}, {}, {"temperature": 0.7, "top_p": 0.95, "min_p": 0.1}),
        ({"top_k": 0.0}, {}, {"temperature": 0.7, "top_k": 0, "top_p": 0.95, "min_p": 0.05}),
        ({"repetition_penalty": 1.1}, {"top_p": 0.5}, {"temperature": 0.7, "top_p": 0.5, "min_p": 0.05}),
        ({"temperature": 0.0}, {}, {}),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 0.0}, {}),
        ({}, {"temperature": 0}, {}),
    ],
)
def test_a_recommendation_holds_where_no_option_says_otherwise(
    said: dict[str, float], changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    penalty = {"repetition_penalty": 1.1} if "repetition_penalty" in said else {}
    assert sampling_from("model", said, changes) == SamplingOptions(**wanted, **penalty)


def test_greedy_takes_nothing_of_a_recommendation() -> None:
    assert sampling_from("greedy", {"temperature": 0.6}, {}) == SamplingOptions()


def test_options_given_as_a_whole_are_changed_one_by_one() -> None:
    assert sampling_from(SamplingOptions(temperature=2.0), {}, {"top_k": 3}) == SamplingOptions(
        temperature=2.0, top_k=3
    )


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampling must be greedy, model or SamplingOptions, got 'best'"):
        sampling_from("best", {}, {})  # type: ignore[arg-type]


def test_a_truncation_of_a_recommended_greedy_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="top_k 5 changes nothing at temperature 0"):
        sampling_from("model", {"temperature": 0.0}, {"top_k": 5})


def test_a_seed_is_drawn_only_where_chance_needs_one_and_none_is_given() -> None:
    assert seeded(SamplingOptions()).seed is None
    assert seeded(SamplingOptions(temperature=1.0, seed=5)).seed == 5
    drawn = {seeded(SamplingOptions(temperature=1.0)).seed for _ in range(8)}
    assert None not in drawn
    assert len(drawn) > 1

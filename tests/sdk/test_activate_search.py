"""Which layers keep how many experts: the sum of single losses first, then layers together, under a budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import words

from skipstone.activate import ActiveBudget, find_levels
from skipstone.activate.known import KnownLosses
from skipstone.activate.reader import Counts, Reader
from skipstone.activate.search import Search
from skipstone.activate.times import StepLine
from skipstone.errors import ConfigError
from skipstone.evaluate import divergences, log_softmax
from skipstone.runtime.engine import Draft, Model, Part
from skipstone.runtime.methods.experts import share_of

LEAST, MOST = (2,) * 4, (8,) * 4
PRICES = (4.0, 1.0, 0.5, 0.1)


def by_prices(counts: Counts, num_windows: int) -> float:
    """A model whose layers each lose a price for every expert that is left out."""
    missing = [most - count for most, count in zip(MOST, counts, strict=True)]
    return float(np.dot(PRICES, missing))


def searching(losses: object = by_prices, *, seed: int = 0, generations: int = 4) -> Search:
    search = Search(LEAST, MOST, losses, num_windows=4, few=1, seed=seed, generations=generations)  # type: ignore[arg-type]
    search.measure_layers()
    return search


def test_layers_that_lose_least_give_up_most() -> None:
    assert searching().first(0.5) == (8, 4, 2, 2)
    assert searching().first(0.25) == LEAST and searching().first(0.1) == LEAST
    assert searching().first(1.0) == MOST


def test_even_numbers_are_where_it_begins_where_losses_do_not_add_up() -> None:
    def uneven(counts: Counts, num_windows: int) -> float:
        """What few experts of one layer lose alone says nothing: all must have the same."""
        return float(max(counts) - min(counts)) + (0.0 if len({*counts}) > 1 else 8.0 - counts[0]) * 0.1

    search = searching(uneven)
    assert search.first(0.5) == search.even(0.5) == (4, 4, 4, 4)
    assert search.even(0.55) == (5, 4, 4, 4), "17 of 32 are at most that share"


def test_an_evolution_finds_what_single_layers_do_not_show() -> None:
    def together(counts: Counts, num_windows: int) -> float:
        """The first two layers lose only where both have few, of which single layers know nothing."""
        return float(max(0, 12 - counts[0] - counts[1])) + 0.01 * (8 - counts[2]) + 0.01 * (8 - counts[3])

    search = searching(together, generations=30)
    first = search.first(0.5)
    found, loss = search.refined(first)
    assert sum(found) == sum(first) and loss < together(first, 4)
    assert found[0] + found[1] > first[0] + first[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.25, 1))
def test_what_is_refined_keeps_the_share_and_the_bounds_and_never_loses_more(seed: int, share: float) -> None:
    search = searching(seed=seed)
    first = search.first(share)
    found, loss = search.refined(first)
    assert sum(found) == sum(first) <= share * sum(MOST) + 1e-6
    assert all(low <= count <= high for low, count, high in zip(LEAST, found, MOST, strict=True))
    assert loss == by_prices(found, 4) <= by_prices(first, 4)
    assert searching(seed=seed).refined(first) == (found, loss)


@given(kl=st.floats(0.01, 40))
def test_a_budget_of_kl_is_kept_by_the_smallest_share_that_does(kl: float) -> None:
    search = searching()
    found = search.within(kl)
    assert by_prices(found, 4) <= kl
    if found != LEAST:
        fewer = search.first((sum(found) - 1) / sum(MOST))
        assert by_prices(fewer, 4) > kl


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[Counts] = []

    def measure(counts: Counts, num_windows: int) -> float:
        asked.append(counts)
        return 0.5

    file = tmp_path / "folder" / "known.json"
    assert KnownLosses(file).kl(LEAST, 2, measure) == KnownLosses(file).kl(LEAST, 2, measure) == 0.5
    assert asked == [LEAST] and json.loads(file.read_text()) == {"2:2,2,2,2": 0.5}
    KnownLosses(file).forget()
    assert not file.exists()


@pytest.mark.parametrize(("text", "unit", "amount"), [("kl:0.1", "kl", 0.1), ("8ms", "ms", 8.0), ("KL:.5", "kl", 0.5)])
def test_budgets_are_read(text: str, unit: str, amount: float) -> None:
    assert ActiveBudget.parse(text) == ActiveBudget(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0.1", "kl:0", "8s", "kl:x", ""])
def test_other_budgets_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget takes a KL or milliseconds, like kl:0\.1 or 8ms"):
        ActiveBudget.parse(text)


def test_a_line_of_times_goes_both_ways() -> None:
    line = StepLine(low=(0.25, 2.0), high=(0.75, 4.0))
    assert line.ms(0.5) == 3.0 and line.share(3.0) == 0.5


def test_the_reader_finds_the_divergence_that_the_slow_way_does(carved: Model) -> None:
    window, counts = [5, 60, 7, 80, 9, 11], (2, 3, 2, 4)
    part, nats = Part(variant="sparse", active=counts), []
    for length in range(1, len(window) + 1):
        sequence = carved.new_sequence()
        sequence.append(window[:length])
        dense = sequence.extend(Draft.empty()).copy()
        other = carved.new_sequence()
        other.append(window[:length])
        nats.append(divergences(log_softmax(dense), log_softmax(other.peek_by(window[:length], part)[None]))[0])
    reader = Reader(carved, [window])
    assert reader.kl(counts, 1) == pytest.approx(np.mean(nats), abs=1e-4)
    assert reader.kl((4,) * 4, 1) == pytest.approx(0, abs=1e-5)


def test_levels_are_found_on_a_model_and_kept_within_the_budget(carved: Model) -> None:
    found = find_levels(carved, [words() * 2], shares=(0.5, 0.75), budget=ActiveBudget(0.05, "kl"))
    assert found.num_tokens >= 1024 and found.chosen is not None and found.budget == "kl:0.05"
    chosen = next(level for level in found.levels if level.share == found.chosen)
    assert chosen.kl is not None and chosen.kl <= 0.05
    assert all(level.share == share_of(level.counts, carved.manifest) for level in found.levels)
    assert find_levels(carved, [words() * 2], shares=(0.5, 0.75), budget=ActiveBudget(0.05, "kl")) == found


def test_a_bundle_without_experts_says_how_to_make_them(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="runs some experts of each layer, and the bundle has none; make one with"):
        find_levels(tiny, [words()])

"""Which stages drafts leave out: the promise by hand, the search on made-up tables, and agreement on a real model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from conftest import MakeBundle
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.costs import StageTimes, best_speed_up, stage_times
from skipstone.runtime.costs.rates import speed_up
from skipstone.runtime.costs.stage_times import LONGEST, ROWS
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods.depth import Reader, best_set, find_skip_set, spread, text_windows

TEXT = "def add(first, second):\n    return first + second\n\nThe quick brown fox. " * 40
WINDOW = np.random.default_rng(0).integers(0, 307, size=40).tolist()


# What a set promises


@pytest.mark.parametrize(
    ("agreement", "length", "guess_cost", "verify_cost", "wanted"),
    [(0.8, 4, 0.41, 1.2, 1.184), (0.8, 4, 0.20, 1.2, 1.681), (0.6, 2, 0.41, 1.1, 1.021), (1.0, 3, 0.5, 1.5, 4 / 3)],
)
def test_the_speed_up_is_tokens_by_plain_steps(
    agreement: float, length: int, guess_cost: float, verify_cost: float, wanted: float
) -> None:
    assert speed_up(agreement, length, guess_cost, verify_cost) == pytest.approx(wanted, abs=5e-4)


def test_the_best_length_grows_with_agreement_and_is_one_at_least() -> None:
    lengths = [best_speed_up(agreement, 0.3, [1.1] * LONGEST)[1] for agreement in (0.0, 0.4, 0.6, 0.8, 0.9, 1.0)]
    assert lengths == sorted(lengths) and (lengths[0], lengths[-1]) == (1, LONGEST)
    assert best_speed_up(0.0, 0.3, [1.1] * LONGEST) == (pytest.approx(1 / 1.4), 1)


TIMES = StageTimes(stage_s=[[1.0, 1.1, 1.3, 1.8]] * 8, head_s=[2.0, 2.2, 2.6, 3.6])


def test_costs_are_shares_of_a_plain_step() -> None:
    assert TIMES.plain_s == 10
    assert TIMES.guess_cost(range(8)) == 1.0
    assert TIMES.guess_cost((0, 1, 7)) == pytest.approx(0.5)
    costs = TIMES.verify_costs(3)
    assert len(costs) == LONGEST
    assert costs[0] == pytest.approx((3 + 5 * 1.1 + 2.2) / 10), "three stages run one row, the others two"
    assert costs[-1] == pytest.approx((3 + 5 * 1.8 + 3.6) / 10)
    assert costs[1] == pytest.approx((3 + 5 * 1.2 + 2.4) / 10), "between what was measured lies a line"


def test_every_stage_of_a_bundle_is_timed(tiny_stages: Model) -> None:
    times = stage_times(tiny_stages)
    assert [len(one) for one in (*times.stage_s, times.head_s)] == [len(ROWS)] * 5
    assert min(ms for one in (*times.stage_s, times.head_s) for ms in one) > 0


# The search


def table(losses: Sequence[float], joint: float = 0.0) -> object:
    """Return agreements by the sum of what each stage's absence costs, and `joint` for each pair of neighbours."""

    def agreements(sets: Sequence[tuple[int, ...]]) -> list[float]:
        found = []
        for skipped in sets:
            pairs = sum(number + 1 in skipped for number in skipped)
            found.append(max(0.0, 1.0 - sum(losses[number] for number in skipped) - joint * pairs))
        return found

    return agreements


def test_stages_that_nobody_misses_are_left_out_and_those_at_the_ends_never() -> None:
    found = best_set(8, table([0.0] * 8), TIMES)  # type: ignore[arg-type]
    assert (found.skipped, found.agreement) == ((1, 2, 3, 4, 5, 6), 1.0)
    assert found.speed_up == pytest.approx(9 / (8 * 0.4 + (1 + 7 * 1.8 + 3.6) / 10))
    assert found.length == LONGEST


def test_the_search_ends_where_one_more_promises_less() -> None:
    losses = [1.0, 0.01, 0.5, 0.02, 0.5, 0.03, 0.5, 1.0]
    asked: list[tuple[int, ...]] = []

    def agreements(sets: Sequence[tuple[int, ...]]) -> list[float]:
        asked.extend(sets)
        found: list[float] = table(losses)(sets)  # type: ignore[operator]
        return found

    assert best_set(8, agreements, TIMES).skipped == (1, 3, 5)
    assert len(asked) == 6 + 5 + 4 + 3
    assert asked[:6] == [(6,), (5,), (4,), (3,), (2,), (1,)], "each begins as the one before it"


def test_a_stage_is_left_out_even_where_that_does_not_pay() -> None:
    found = best_set(4, table([1.0, 0.9, 0.8, 1.0]), TIMES)  # type: ignore[arg-type]
    assert found.skipped == (2,) and found.speed_up < 1


@given(losses=st.lists(st.floats(0, 0.5), min_size=4, max_size=7), joint=st.floats(0, 0.3))
def test_what_is_found_promises_as_much_as_any_set_of_one(losses: list[float], joint: float) -> None:
    times = StageTimes(stage_s=[[1.0, 1.1, 1.3, 1.8]] * len(losses), head_s=[2.0, 2.2, 2.6, 3.6])
    agreements = table(losses, joint)
    found = best_set(len(losses), agreements, times)  # type: ignore[arg-type]
    assert 0 < found.skipped[0] <= found.skipped[-1] < len(losses) - 1
    for number in range(1, len(losses) - 1):
        kept = [one for one in range(len(losses)) if one != number]
        alone, _ = best_speed_up(1.0 - losses[number], times.guess_cost(kept), times.verify_costs(number))
        assert found.speed_up >= alone - 1e-9


# Agreement


def choices_slowly(model: Model, window: list[int], skipped: tuple[int, ...]) -> list[int]:
    """The slow obvious way: peek behind each token of the text."""
    num_first = min(skipped)
    then = tuple(number for number in range(num_first, len(model.manifest.stages)) if number not in skipped)
    sequence = model.new_sequence()
    sequence.append(window)
    return [
        int(sequence.peek(window[: place + 1], num_stages=num_first, then=then).argmax())
        for place in range(len(window))
    ]


@pytest.mark.parametrize("window", [WINDOW, WINDOW * 4], ids=["one call", "two calls"])  # a call takes 128 tokens
def test_choices_are_those_of_drafts_along_the_text(tiny_stages: Model, window: list[int]) -> None:
    reader, full, wanted = Reader(tiny_stages, [window]), tiny_stages.new_sequence(), []
    for token_id in window:
        full.append([token_id])
        wanted.append(int(full.extend(Draft.empty())[0].argmax()))
    for skipped in ((2,), (1,), (1, 2)):
        slow = choices_slowly(tiny_stages, window, skipped)
        same = sum(one == other for one, other in zip(slow, wanted, strict=True))
        assert reader.agreements([skipped]) == [pytest.approx(same / len(window))] and 0 < same < len(window)


@given(
    sets=st.lists(st.sets(st.integers(1, 2), max_size=2).map(lambda one: tuple(sorted(one))), min_size=1, max_size=6)
)
@settings(max_examples=20, deadline=None)
def test_the_order_of_sets_changes_nothing_and_skipping_nothing_agrees_everywhere(
    tiny_stages: Model, sets: list[tuple[int, ...]]
) -> None:
    reader = Reader(tiny_stages, [WINDOW[:17], WINDOW[17:]])
    found = reader.agreements(sets)
    assert found == [reader.agreements([skipped])[0] for skipped in sets]
    assert all(share == 1.0 for share, skipped in zip(found, sets, strict=True) if not skipped)


def test_layers_of_whole_stages_are_found_along_the_text(tiny_stages: Model) -> None:
    counts: list[int] = []
    found = find_skip_set(tiny_stages, [TEXT] * 3, on_progress=counts.append)
    assert counts[0] == 2 and {*found.layers} <= {1, 2} and found.layers
    assert found.num_tokens > 1800 and 0 <= found.agreement <= 1
    assert found.agreement == Reader(tiny_stages, spread_texts(tiny_stages, 3)).agreements([found.layers])[0]


def spread_texts(model: Model, count: int) -> list[list[int]]:
    return spread(text_windows(model, [TEXT] * count))


@pytest.mark.parametrize(("num_windows", "wanted"), [(21, 21), (30, 21), (60, 21), (4000, 21)])
def test_a_long_text_is_read_in_windows_from_all_over_it(num_windows: int, wanted: int) -> None:
    chosen = spread([[number] * 100 for number in range(num_windows)])
    places = [window[0] for window in chosen]
    assert len(places) == wanted and places[0] == 0
    assert {later - place for place, later in pairwise(places)} <= {num_windows // 21, num_windows // 21 + 1}


def test_a_short_text_and_a_bundle_of_two_stages_are_refused(
    tiny_stages: Model, tiny: Model, make_bundle: MakeBundle, tiny_checkpoint: object
) -> None:
    count = len(tiny_stages.tokenizer.encode(TEXT[:300]))
    with pytest.raises(ConfigError, match=f"the text has {count} tokens; the search wants at least 2000"):
        find_skip_set(tiny_stages, [TEXT[:300]])
    two = Model.open(make_bundle(tiny_checkpoint, exits="2"))  # type: ignore[arg-type]
    for model, num_stages in ((tiny, 1), (two, 2)):
        with pytest.raises(ConfigError, match=f"has {num_stages} stages, of which .* OUT --cuts each`"):
            find_skip_set(model, [TEXT] * 3)

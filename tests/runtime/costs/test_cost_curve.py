"""The cost curve: milliseconds between the measured points, beyond them, and in a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.runtime.bundle import read_typed
from skipstone.runtime.costs import CostCurve

CURVE = CostCurve(rows=(1, 2, 4), contexts=(100, 300), seconds=((1.0, 1.5, 2.0), (2.0, 2.5, 5.0)))


def rising(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(2, 5000), min_size=size, max_size=size, unique=True).map(sorted)


@st.composite
def curves(draw: st.DrawFn) -> CostCurve:
    """Any curve, however the noise of the machine has bent it."""
    rows, contexts = [1, *draw(rising(draw(st.integers(0, 4))))], draw(rising(draw(st.integers(1, 3))))
    times = st.lists(st.floats(0.01, 100), min_size=len(rows), max_size=len(rows)).map(tuple)
    return CostCurve(rows=tuple(rows), contexts=tuple(contexts), seconds=tuple(draw(times) for _ in contexts))


def test_measured_points_are_given_back() -> None:
    for context, line in zip(CURVE.contexts, CURVE.seconds, strict=True):
        costs = CURVE.costs(context, max_rows=4)
        assert [costs[rows] for rows in CURVE.rows] == list(line)


def test_between_points_the_time_lies_on_the_line_through_its_neighbours() -> None:
    assert CURVE.costs(100, max_rows=3)[3] == pytest.approx(1.75)
    assert CURVE.costs(150, max_rows=3) == pytest.approx([0, 1.25, 1.75, 2.25])


def test_beyond_the_last_point_the_time_goes_on_as_steeply() -> None:
    assert CURVE.costs(100, max_rows=8)[8] == pytest.approx(3.0)
    assert CURVE.costs(500, max_rows=2) == pytest.approx([0, 3.0, 3.5])


def test_before_the_first_context_the_time_is_that_of_the_first() -> None:
    assert CURVE.costs(0, max_rows=2) == [0, 1.0, 1.5]


def test_one_row_and_one_context_make_a_flat_curve() -> None:
    curve = CostCurve(rows=(1,), contexts=(0,), seconds=((0.4,),))
    assert curve.costs(1000, max_rows=3) == [0, 0.4, 0.4, 0.4]


def test_a_context_that_was_measured_too_quick_makes_no_call_free() -> None:
    curve = CostCurve(rows=(1, 2), contexts=(64, 512), seconds=((1.0, 1.2), (0.9, 1.1)))
    assert curve.costs(100_000, max_rows=2) == pytest.approx([0, 0.9, 1.1])


@given(curves(), st.integers(0, 100_000), st.integers(0, 40))
def test_more_rows_never_cost_less_and_no_call_is_free(curve: CostCurve, context: int, max_rows: int) -> None:
    costs = curve.costs(context, max_rows=max_rows)
    assert len(costs) == 1 + max_rows
    assert costs == sorted(costs)
    assert costs[0] == 0 and all(cost > 0 for cost in costs[1:])


@given(curves())
def test_a_curve_comes_back_from_json(curve: CostCurve) -> None:
    assert read_typed(CostCurve, json.loads(json.dumps(asdict(curve))), name="the curve") == curve


# Bad data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": (1, 4, 2)}, r"rows of a cost curve must rise, found \[1, 4, 2\]"),
        ({"rows": (1, 2, 2)}, "rows of a cost curve must rise"),
        ({"rows": ()}, "rows of a cost curve must rise"),
        ({"contexts": ()}, "contexts of a cost curve must rise"),
        ({"contexts": (300, 100)}, "contexts of a cost curve must rise"),
        ({"rows": (2, 3, 4)}, "from one row on"),
        ({"seconds": ((1.0, 1.5, 2.0),)}, "for each of its contexts"),
        ({"seconds": ((1.0, 1.5, 2.0), (2.0, 2.5))}, "for each of its contexts and rows"),
        ({"seconds": ((1.0, 1.5, 2.0), (2.0, 2.5, 0.0))}, "a positive time"),
        ({"seconds": ((1.0, 1.5, 2.0), (2.0, 2.5, float("nan")))}, "a positive time"),
        ({"seconds": ((1.0, 1.5, 2.0), (2.0, 2.5, float("inf")))}, "a positive time"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CostCurve(**{"rows": CURVE.rows, "contexts": CURVE.contexts, "seconds": CURVE.seconds} | changes)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"rows": [1], "contexts": [0]},
        {"rows": 1, "contexts": [0], "seconds": [[1.0]]},
        {"rows": [1], "contexts": [0], "seconds": [["fast"]]},
        {"rows": [1], "contexts": [float("inf")], "seconds": [[1.0]]},
        {"rows": [1, 2], "contexts": [0], "seconds": [[1.0]]},
    ],
)
def test_what_holds_no_curve_is_refused(data: Any) -> None:
    with pytest.raises(SkipstoneError):
        read_typed(CostCurve, data, name="the curve")


@pytest.mark.parametrize("seconds", [5e-324, 1e-13, 1e10, 1.7e308])
def test_a_time_that_no_call_takes_is_refused_before_ratios_are_taken(seconds: float) -> None:
    with pytest.raises(ConfigError, match="a cost curve needs a positive time"):
        CostCurve(rows=(1, 2, 3), contexts=(1,), seconds=((0.01, seconds, 0.02),))

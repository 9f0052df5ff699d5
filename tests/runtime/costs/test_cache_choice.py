"""Which type of cache is chosen: always the cheapest by the curves, and the crossing says where that changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.runtime.costs import CostCurve
from skipstone.runtime.costs.cache_choice import CacheChoice, choose_cache, crossings

ROWS, CONTEXTS = (1, 4, 16), (64, 512, 2048)
times = st.floats(1e-4, 1.0)
curves = st.lists(st.lists(times, min_size=3, max_size=3), min_size=3, max_size=3).map(
    lambda seconds: CostCurve(rows=ROWS, contexts=CONTEXTS, seconds=tuple(map(tuple, seconds)))
)
# One row gains by an int8 cache behind many tokens, sixteen rows lose.
FP32 = CostCurve(rows=ROWS, contexts=CONTEXTS, seconds=((5.0, 7.0, 15.0), (6.0, 9.0, 20.0), (9.0, 14.0, 30.0)))
INT8 = CostCurve(rows=ROWS, contexts=CONTEXTS, seconds=((5.2, 7.1, 16.0), (5.6, 9.5, 24.0), (6.5, 15.0, 40.0)))
BOTH = {"float32": FP32, "int8": INT8}


@given(curves, curves, st.integers(1, 16), st.integers(0, 9000))
def test_no_other_type_would_be_cheaper(first: CostCurve, second: CostCurve, num_rows: int, context: int) -> None:
    choice = choose_cache({"float32": first, "int8": second}, num_rows=num_rows, context=context)
    assert choice.seconds[choice.cache_type] == min(choice.seconds.values())
    assert choice.seconds["int8"] == second.costs(context, max_rows=num_rows)[num_rows]


@given(curves, curves, st.sampled_from([1, 4, 16]), st.integers(1, 5000))
def test_behind_the_crossing_the_type_stays(first: CostCurve, second: CostCurve, num_rows: int, limit: int) -> None:
    both = {"float32": first, "int8": second}
    (crossing,) = crossings(both, rows=(num_rows,), limit=limit)
    start = crossing.context or 0
    for context in {*range(start - start % 64, limit, 64), limit}:
        if context >= start:
            assert choose_cache(both, num_rows=num_rows, context=context).cache_type == crossing.after
    assert (crossing.before == crossing.after) == (crossing.context is None)


def test_a_long_context_and_one_row_take_int8_several_rows_fp32() -> None:
    assert choose_cache(BOTH, num_rows=1, context=64).cache_type == "float32"
    assert choose_cache(BOTH, num_rows=1, context=2048).cache_type == "int8"
    assert choose_cache(BOTH, num_rows=16, context=2048).cache_type == "float32"


def test_the_choice_and_the_crossing_are_told_in_a_line() -> None:
    assert choose_cache(BOTH, num_rows=1, context=2048).told == (
        "cache int8: a call of 1 row behind 2,048 tokens takes 6.5e+03 ms, 9e+03 ms with fp32"
    )
    alone = CacheChoice(cache_type="float32", seconds={"float32": 0.005}, num_rows=4, context=10)
    assert alone.told == "cache fp32: the bundle and the device have no other"
    one, many = crossings(BOTH, rows=(1, 16), limit=2048)
    assert one.told == "1 row: fp32 below 256 tokens, int8 from there on; at 2,048: fp32 9e+03 ms, int8 6.5e+03 ms"
    assert many.told == "16 rows: fp32 at every length; at 2,048: fp32 3e+04 ms, int8 4e+04 ms"


@pytest.mark.parametrize(("decode", "rows"), [("plain", 1), ("auto", 2), ("ngram,model", 4), ("tree", 9), ("exit", 1)])
def test_each_way_to_decode_has_its_usual_rows(decode: str, rows: int) -> None:
    from skipstone.runtime.methods import MethodChoice

    assert MethodChoice.parse(decode).usual_rows == rows

"""A profile with wrong times heals within one text: planning on it is as quick as on a right one.

Time is simulated; see `simulated_texts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_texts import Clock, Scripted, simulation

from skipstone.runtime.costs import MAX_ROWS, CostCurve
from skipstone.runtime.costs.curve import believed

ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
# Milliseconds of calls on devices: rows at a steady price, in pairs, after a dear second one, free at first.
DEVICES = {
    "steady": tuple(1 + 0.1 * (rows - 1) for rows in ROWS),
    "dear rows": tuple(1 + 0.4 * (rows - 1) for rows in ROWS),
    "in pairs": (1, 1.3, 1.35, 1.6, 1.65, 1.9, 2.2, 2.6, 3.0, 3.8),
    "after a jump": (1, 1.8, 1.85, 1.9, 1.95, 2, 2.1, 2.2, 2.3, 2.5),
    "almost free": (1, 1.01, 1.02, 1.03, 1.2, 1.25, 1.3, 1.6, 1.65, 1.9),
    "free at first": (1, 1.05, 1.1, 1.15, 1.2, 1.25, 2.5, 2.6, 2.7, 2.9),
}
HEALED_WITHIN, JUDGED = 128, 300


def profile(times_ms: Sequence[float], wrong: Sequence[tuple[int, float]] = ()) -> CostCurve:
    factors = dict(wrong)
    seconds = tuple(1e-3 * time * factors.get(rows, 1.0) for rows, time in zip(ROWS, times_ms, strict=True))
    return CostCurve(rows=ROWS, contexts=(0,), seconds=(seconds,))


@cache
def healed_s(device: str, right_share: float, wrong: tuple[tuple[int, float], ...] = ()) -> float:
    """Return what tokens take behind the first ones of a text, as a multiple of plain decoding."""
    real, clock = profile(DEVICES[device]), Clock()
    is_right = np.random.default_rng(5).random(2000) < right_share
    drafter = Scripted(clock, lambda at: bool(is_right[at]), length=15, price_ms=0.01)
    run = simulation(lambda _: [drafter], curve=profile(DEVICES[device], wrong), real=real, clock=clock)
    run.run(HEALED_WITHIN)
    return run.run(JUDGED)


@pytest.mark.parametrize("factor", [7.0, 1 / 7])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_time_that_is_seven_times_wrong_costs_nothing_behind_128_tokens(
    device: str, rows: int, factor: float
) -> None:
    for share in (0.8, 1.0):
        assert healed_s(device, share, ((rows, factor),)) < 1.03 * healed_s(device, share)


@pytest.mark.parametrize("wrong", [((3, 7.0), (5, 6.0)), ((2, 7.0), (4, 7.0)), ((1, 1 / 7), (3, 1 / 7))], ids=str)
@pytest.mark.parametrize("device", ["steady", "in pairs", "almost free"])
def test_neither_do_two_times_of_a_busy_machine(device: str, wrong: tuple[tuple[int, float], ...]) -> None:
    assert healed_s(device, 0.9, wrong) < 1.03 * healed_s(device, 0.9)


@pytest.mark.parametrize("factor", [1 / 3, 3.0])
@pytest.mark.parametrize("device", DEVICES)
def test_nor_a_machine_that_is_quicker_or_slower_now(device: str, factor: float) -> None:
    wrong = tuple((rows, factor) for rows in ROWS)
    assert healed_s(device, 0.9, wrong) < 1.03 * healed_s(device, 0.9)


# What is believed of a profile


def test_what_a_busy_machine_measured_is_believed_as_far_as_it_can_be() -> None:
    """Calls of 3 and 5 rows were disturbed: a field report."""
    times = [2.2, 2.5, 20.8, 2.9, 15.4, 3.3, 3.9, 4.4, 5.0, 6.1]
    assert believed(ROWS, times) == pytest.approx([2.2, 2.5, 2.7, 2.9, 3.1, 3.3, 3.9, 4.4, 5.0, 6.1])
    assert profile(times).doubtful == [(0, 2), (0, 4)]
    assert not profile(times).is_sound


@pytest.mark.parametrize("device", DEVICES)
def test_a_right_profile_is_believed_as_it_is(device: str) -> None:
    assert believed(ROWS, DEVICES[device]) == list(DEVICES[device])
    assert profile(DEVICES[device]).is_sound


def test_noise_is_levelled() -> None:
    assert believed((1, 2, 3, 4), [1.0, 1.2, 1.1, 1.15]) == [1.0, 1.1, 1.1, 1.15]


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=10))
def test_what_is_believed_rises_and_lies_between_what_was_measured(times: list[float]) -> None:
    found = believed(ROWS[: len(times)], times)
    assert found == sorted(found) and len(found) == len(times)
    assert min(times) / MAX_ROWS <= found[0] and found[-1] <= max(times) * MAX_ROWS


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=10))
def test_hope_is_never_above_what_is_believed(times: list[float]) -> None:
    rows = ROWS[: len(times)]
    curve = CostCurve(rows=rows, contexts=(0,), seconds=(tuple(times),))
    hopeful, costs = curve.hopeful(0, max_rows=rows[-1]), curve.costs(0, max_rows=rows[-1])
    assert all(low <= cost * (1 + 1e-9) for low, cost in zip(hopeful, costs, strict=True))
    assert hopeful == sorted(hopeful)
    assert hopeful[1] == costs[1]

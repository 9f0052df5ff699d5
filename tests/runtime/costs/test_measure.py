"""Measuring calls: every cell of the curve gets a time, whatever room the model has."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from skipstone.runtime.costs import MAX_ROWS, measure_costs
from skipstone.runtime.engine import Model

QUICK = 1e-6


def with_context(model: Model, context_length: int) -> Model:
    changed = copy.copy(model)
    changed.manifest = replace(model.manifest, context_length=context_length)
    return changed


def test_the_curve_has_a_time_for_each_of_its_rows_and_contexts(tiny: Model) -> None:
    curve = measure_costs(tiny, budget_s=QUICK)
    assert (curve.rows[0], curve.rows[-1]) == (1, MAX_ROWS)
    assert curve.contexts == (64, 240), "the end of 256 tokens of context, with room for a call"
    assert len(curve.costs(64, max_rows=MAX_ROWS)) == 1 + MAX_ROWS


@pytest.mark.parametrize("context_length", [1, 2, 7, 16, 17, 40, 79])
def test_a_small_context_is_measured_as_far_as_it_goes(tiny: Model, context_length: int) -> None:
    curve = measure_costs(with_context(tiny, context_length), budget_s=QUICK, min_sweeps=1)
    context = curve.contexts[-1]
    assert curve.rows[-1] <= MAX_ROWS
    assert context + curve.rows[-1] == context_length


def test_every_cell_is_measured_in_every_sweep(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    curve = measure_costs(tiny, budget_s=QUICK, min_sweeps=3)
    assert fed == [(1, count) for _ in range(1 + 3 * len(curve.contexts)) for count in curve.rows], (
        "one round to warm up"
    )


def test_a_model_in_stages_is_measured_too(tiny_stages: Model) -> None:
    assert measure_costs(tiny_stages, budget_s=QUICK).rows[-1] == MAX_ROWS


def test_time_that_is_left_is_not_used_up_when_enough_was_measured(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    curve = measure_costs(tiny, budget_s=1e6, max_sweeps=3)
    assert len(fed) == (1 + 3 * len(curve.contexts)) * len(curve.rows)


@pytest.mark.parametrize(
    ("budget_s", "min_sweeps", "max_sweeps"), [(QUICK, 4, 12), (0.05, 1, 10**6), (1e6, 2, 5), (1e6, 3, 3)]
)
def test_progress_is_complete_only_at_the_end(tiny: Model, budget_s: float, min_sweeps: int, max_sweeps: int) -> None:
    shares: list[float] = []
    measure_costs(tiny, budget_s=budget_s, min_sweeps=min_sweeps, max_sweeps=max_sweeps, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(0 < share < 1 for share in shares[:-1])

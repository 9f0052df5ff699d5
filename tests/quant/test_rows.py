"""Rows taken, stacked and scaled: integers stand for the numbers that the same steps on plain arrays give."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.quant import Matrix, QuantizedMatrix, pack, quantize, refine, scale, stack, take_rows
from skipstone.quant.rows import can_stack

Floats = NDArray[np.float32]
COLUMNS = st.sampled_from([1, 16, 31, 32, 70])
FORMS = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([2, 4, 8]),
        "block_size": st.sampled_from([16, 32]),
        "has_points": st.booleans(),
        "has_order": st.booleans(),
    }
)


def random_matrix(
    seed: int, rows: int, columns: int, *, bits: int, block_size: int, has_points: bool, has_order: bool
) -> QuantizedMatrix:
    """Any integers, scales of both signs, and where wished any zero points and an order, which depends on K alone."""
    random = np.random.default_rng(seed)
    blocks = -(-columns // block_size)
    points = random.integers(0, 1 << bits, (rows, blocks)).astype(np.uint8)
    return QuantizedMatrix(
        data=random.integers(0, 256, (rows, blocks, block_size * bits // 8)).astype(np.uint8),
        scales=random.standard_normal((rows, blocks)).astype(np.float32),
        zero_points=pack(points, bits) if has_points else None,
        bits=bits,
        block_size=block_size,
        shape=(rows, columns),
        order=np.random.default_rng(columns).permutation(columns) if has_order else None,
    )


@st.composite
def matrices(draw: st.DrawFn, columns: int | None = None, **fixed: Any) -> Matrix:
    """A matrix as numbers or as integers."""
    rows, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**20))
    columns = draw(COLUMNS) if columns is None else columns
    if not fixed and draw(st.booleans()):
        return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return random_matrix(seed, rows, columns, **draw(FORMS) | fixed)


def numbers(matrix: Matrix) -> Floats:
    return matrix if isinstance(matrix, np.ndarray) else matrix.dequantize()


def copied(matrix: Matrix) -> list[Any]:
    """What a matrix holds, to see whether it was changed."""
    if isinstance(matrix, np.ndarray):
        return [matrix.copy()]
    return [None if part is None else part.copy() for part in (matrix.data, matrix.scales, matrix.zero_points)]


def assert_as_before(matrix: Matrix, before: list[Any]) -> None:
    for part, old in zip(copied(matrix), before, strict=True):
        np.testing.assert_array_equal(part, old)


def assert_well_formed(matrix: Matrix) -> None:
    """Shapes are those that the device reads."""
    if isinstance(matrix, np.ndarray):
        assert matrix.dtype == np.float32
        return
    rows, columns = matrix.shape
    blocks = -(-columns // matrix.block_size)
    assert (matrix.data.shape, matrix.data.dtype) == ((rows, blocks, matrix.block_size * matrix.bits // 8), np.uint8)
    assert (matrix.scales.shape, matrix.scales.dtype) == ((rows, blocks), np.float32)
    if matrix.zero_points is not None:
        assert (matrix.zero_points.shape, matrix.zero_points.dtype) == ((rows, -(-blocks * matrix.bits // 8)), np.uint8)


# Rows


@settings(deadline=None)
@given(matrix=matrices(), data=st.data())
def test_taken_rows_are_those_of_the_numbers_and_missing_ones_are_zeros(matrix: Matrix, data: st.DataObject) -> None:
    whole = numbers(matrix)
    rows = np.array(data.draw(st.lists(st.integers(-1, len(whole) - 1), min_size=1, max_size=9)))
    before = copied(matrix)
    taken = take_rows(matrix, rows)
    wanted = np.array([whole[row] if row >= 0 else np.zeros(whole.shape[1]) for row in rows], np.float32)
    np.testing.assert_array_equal(numbers(taken), wanted)
    assert_well_formed(taken)
    assert_as_before(matrix, before)


@given(matrix=matrices())
def test_all_rows_in_their_order_are_the_matrix_itself(matrix: Matrix) -> None:
    assert take_rows(matrix, np.arange(len(numbers(matrix)))) is matrix


@given(matrix=matrices())
def test_the_first_rows_are_not_taken_for_all(matrix: Matrix) -> None:
    whole = numbers(matrix)
    for count in range(1, len(whole)):
        np.testing.assert_array_equal(numbers(take_rows(matrix, np.arange(count))), whole[:count])


@pytest.mark.parametrize("rows", [[2, 0], [-1, 2], [0, 1, 2]])
def test_entries_of_a_vector_are_taken_as_rows(rows: list[int]) -> None:
    vector = np.array([5, 6, 7], np.float32)
    wanted = [vector[row] if row >= 0 else 0 for row in rows]
    np.testing.assert_array_equal(take_rows(vector, np.array(rows)), wanted)


# One under the other


@settings(deadline=None)
@given(parts=COLUMNS.flatmap(lambda columns: st.lists(matrices(columns=columns), min_size=1, max_size=5)))
def test_stacked_or_not_the_numbers_stay_one_under_the_other(parts: list[Matrix]) -> None:
    before = [copied(part) for part in parts]
    stacked = stack(parts)
    np.testing.assert_array_equal(
        np.concatenate([numbers(part) for part in stacked]), np.concatenate([numbers(part) for part in parts])
    )
    assert not any(can_stack(*pair) for pair in itertools.pairwise(stacked)), "what fits was put together"
    for part, old in zip(parts, before, strict=True):
        assert_as_before(part, old)
    for part in stacked:
        assert_well_formed(part)


@settings(deadline=None)
@given(parts=st.lists(matrices(columns=70, bits=4, block_size=32, has_order=True), min_size=2, max_size=4))
def test_integers_of_one_form_become_one_matrix_with_zero_points_or_without(parts: list[QuantizedMatrix]) -> None:
    (joined,) = stack(parts)
    assert isinstance(joined, QuantizedMatrix)
    assert joined.shape == (sum(part.shape[0] for part in parts), 70)
    assert (joined.zero_points is None) == all(part.zero_points is None for part in parts)
    np.testing.assert_array_equal(joined.data, np.concatenate([part.data for part in parts]))


@given(first=matrices(columns=32), second=matrices(columns=32))
def test_what_can_be_stacked_can_be_stacked_in_either_order(first: Matrix, second: Matrix) -> None:
    assert can_stack(first, second) == can_stack(second, first)
    assert can_stack(first, first)


PLAIN = {"bits": 4, "block_size": 32, "has_points": True, "has_order": False}


@pytest.mark.parametrize(
    ("columns", "change"),
    [(64, {"bits": 8}), (64, {"block_size": 16}), (64, {"has_order": True}), (70, {})],
    ids=["width", "block", "an order", "columns"],
)
def test_integers_of_another_form_are_not_stacked(columns: int, change: dict[str, Any]) -> None:
    first = random_matrix(0, 3, 64, **PLAIN)
    second = random_matrix(1, 3, columns, **PLAIN | change)
    assert not can_stack(first, second)
    assert stack([first, second, second])[0] is first


def test_integers_in_another_order_are_not_stacked() -> None:
    first = random_matrix(0, 3, 64, **PLAIN | {"has_order": True})
    assert first.order is not None
    assert can_stack(first, replace(first, order=first.order.copy()))
    assert not can_stack(first, replace(first, order=first.order[::-1].copy()))


def test_numbers_and_integers_are_not_stacked() -> None:
    integers = random_matrix(0, 3, 64, **PLAIN)
    floats = np.ones((2, 64), np.float32)
    assert not can_stack(integers, floats) and not can_stack(floats, integers)
    assert [len(numbers(part)) for part in stack([floats, floats, integers, integers, floats])] == [4, 6, 2]


# Scale


@settings(deadline=None)
@given(matrix=matrices(), factor=st.sampled_from([0.22, 0.5, 3.0, -1.0]))
def test_a_scaled_matrix_is_that_many_times_its_numbers(matrix: Matrix, factor: float) -> None:
    before = copied(matrix)
    scaled = scale(matrix, factor)
    np.testing.assert_allclose(numbers(scaled), numbers(matrix) * np.float32(factor), rtol=1e-6)
    assert_well_formed(scaled)
    assert_as_before(matrix, before)
    if isinstance(matrix, QuantizedMatrix):
        assert isinstance(scaled, QuantizedMatrix)
        np.testing.assert_array_equal(scaled.data, matrix.data)


@given(matrix=matrices())
def test_once_a_matrix_is_the_matrix_itself(matrix: Matrix) -> None:
    assert scale(matrix, 1.0) is matrix


# All together


@settings(deadline=None)
@given(data=st.data(), factor=st.sampled_from([0.5, 1.0, -2.0]))
def test_the_order_of_the_steps_does_not_matter(data: st.DataObject, factor: float) -> None:
    first, second = data.draw(matrices(columns=70)), data.draw(matrices(columns=70))
    rows = [
        np.array(data.draw(st.lists(st.integers(-1, len(numbers(part)) - 1), min_size=1, max_size=5)))
        for part in (first, second)
    ]
    parts = [*zip((first, second), rows, strict=True)]
    found = np.concatenate([*map(numbers, stack([scale(take_rows(part, own), factor) for part, own in parts]))])
    scaled_first = stack([take_rows(scale(part, factor), own) for part, own in parts])
    np.testing.assert_array_equal(np.concatenate([*map(numbers, scaled_first)]), found)
    if can_stack(first, second):
        (whole,) = stack([first, second])
        both = np.concatenate([rows[0], np.where(rows[1] < 0, -1, rows[1] + len(numbers(first)))])
        np.testing.assert_array_equal(numbers(scale(take_rows(whole, both), factor)), found)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "finer", "block_size"), [(2, 4, 64), (2, 8, 16), (4, 8, 32), (4, 4, 16)])
def test_wider_integers_in_smaller_blocks_mean_the_same(
    bits: int, finer: int, block_size: int, symmetric: bool
) -> None:
    weight = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    matrix = quantize(weight, bits=bits, block_size=64, symmetric=symmetric)
    refined = refine(matrix, bits=finer, block_size=block_size)
    assert (refined.bits, refined.block_size) == (finer, block_size)
    assert refined.scales.shape == (5, -(-70 // block_size))
    np.testing.assert_array_equal(refined.dequantize(), matrix.dequantize())

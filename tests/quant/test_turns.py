"""Rotations of any size are orthogonal, and those of the sizes of models spread every channel evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.quant import Turn
from skipstone.quant.rotation import hadamard

MODEL_SIZES = (
    64,
    80,
    96,
    128,
    256,
    576,
    640,
    768,
    896,
    960,
    1024,
    1152,
    1536,
    2048,
    2304,
    2560,
    2880,
    3072,
    3584,
    5376,
)


def dense(turn: Turn) -> np.ndarray:
    """The slow twin: the whole matrix."""
    matrix: np.ndarray = turn.signs[:, None] * np.kron(turn.left, turn.right)
    return matrix


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 120), seed=st.integers(0, 5))
def test_a_turn_is_orthogonal_and_equals_its_matrix(size: int, seed: int) -> None:
    turn = Turn.random(size, np.random.default_rng(seed))
    np.testing.assert_allclose(dense(turn) @ dense(turn).T, np.eye(size), atol=1e-12)
    array = np.random.default_rng(seed).standard_normal((3, 2, size)).astype(np.float32)
    np.testing.assert_allclose(turn(array), array @ dense(turn), atol=1e-5)


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_sizes_of_models_have_a_hadamard_matrix(size: int) -> None:
    turn = Turn.random(size, np.random.default_rng(0))
    one_channel = np.zeros(size, np.float32)
    one_channel[size // 3] = 1
    np.testing.assert_allclose(np.abs(turn(one_channel)), size**-0.5, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 44, 60, 108])
def test_hadamard_matrices_are_orthogonal(order: int) -> None:
    np.testing.assert_allclose(hadamard(order) @ hadamard(order).T, np.eye(order), atol=1e-12)


@pytest.mark.parametrize("order", [3, 18, 52, 92])
def test_a_size_without_one_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"no Hadamard matrix of size {order}"):
        hadamard(order)

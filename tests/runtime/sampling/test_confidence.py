"""How sure logits are: between 0 and 1, and what the definitions give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.sampling import CONFIDENCES, confidence_named, entropy, gap, saturation, top

LAW = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.25, 0.5, 0.25]])
LOGITS = np.log(LAW).astype(np.float32) + np.float32(7)


def test_gap_top_and_entropy_are_those_of_the_probabilities() -> None:
    np.testing.assert_allclose(gap(LOGITS), [0.2, 0.4, 0.25], atol=1e-6)
    np.testing.assert_allclose(top(LOGITS), [0.5, 0.6, 0.5], atol=1e-6)
    bits = -(LAW * np.log2(LAW)).sum(axis=1)
    np.testing.assert_allclose(entropy(LOGITS), 1 - bits / np.log2(3), atol=1e-6)


@given(st.lists(st.lists(st.floats(-80, 80, width=32), min_size=4, max_size=4), min_size=1, max_size=3))
def test_every_measure_lies_between_0_and_1_for_any_logits(rows: list[list[float]]) -> None:
    for measure in CONFIDENCES.values():
        found = measure(np.array(rows, np.float32))
        assert found.shape == (len(rows),)
        assert ((found >= -1e-6) & (found <= 1 + 1e-6)).all()


@pytest.mark.parametrize("name", CONFIDENCES)
def test_a_certain_row_is_surer_than_a_flat_one(name: str) -> None:
    flat, certain = np.zeros((1, 9), np.float32), np.full((1, 9), -100, np.float32)
    certain[0, 3] = 100
    measure = confidence_named(name)
    assert measure(certain)[0] == pytest.approx(1)
    assert measure(flat)[0] < 0.2


def test_banned_tokens_and_a_vocabulary_of_one_are_no_trouble() -> None:
    banned = np.array([[1.0, -np.inf, 1.0]], np.float32)
    assert [float(measure(banned)[0]) for measure in (gap, top)] == pytest.approx([0, 0.5])
    assert entropy(banned)[0] == pytest.approx(1 - np.log(2) / np.log(3))
    assert [float(measure(np.zeros((1, 1), np.float32))[0]) for measure in CONFIDENCES.values()] == [1, 1, 1]


def test_saturation_is_one_where_the_stage_turned_nothing_and_zero_where_it_turned_all_around() -> None:
    before = np.array([[1, 2, 3], [1, 0, 0], [1, 0, 0], [3, 4, 0]], np.float32)
    after = np.array([[2, 4, 6], [0, 5, 0], [-9, 0, 0], [4, 3, 0]], np.float32)
    np.testing.assert_allclose(saturation(before, after), [1, 0.5, 0, (1 + 24 / 25) / 2], atol=1e-12)
    states = np.stack([before, after], axis=1)
    np.testing.assert_array_equal(confidence_named("saturation")(states), saturation(before, after))


@given(st.lists(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=6, max_size=6), min_size=1, max_size=3))
def test_saturation_lies_between_0_and_1_for_any_states_and_asks_for_their_direction_alone(
    rows: list[list[float]],
) -> None:
    states = np.array(rows, np.float32).reshape(-1, 2, 3)
    found = saturation(states[:, 0], states[:, 1])
    assert found.shape == (len(rows),) and ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(saturation(states[:, 1], states[:, 0]), found)
    np.testing.assert_array_equal(saturation(-states[:, 0], -states[:, 1]), found)


def test_states_of_zeros_have_no_direction() -> None:
    assert saturation(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [0.5]


def test_an_unknown_measure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="confidence 'mood' is not known; known are gap, top, entropy, saturation"):
        confidence_named("mood")

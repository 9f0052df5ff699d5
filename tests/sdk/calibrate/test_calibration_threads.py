"""What a calibration computes on threads: the same as without."""

from __future__ import annotations

import numpy as np
import pytest

from skipstone.calibrate import LayerGraph
from skipstone.calibrate.hessians import _Sums
from skipstone.calibrate.threads import _functions, in_parallel, one_blas_thread


class Tapped(LayerGraph):
    """Taps of a graph that is not there."""

    def __init__(self, taps: dict[str, str]) -> None:
        self.taps = taps


def test_results_stand_in_the_order_of_the_items() -> None:
    assert in_parallel(lambda number: number**2, range(9)) == [number**2 for number in range(9)]


@pytest.mark.parametrize("columns", [1, 5, 64])
def test_products_in_pieces_are_those_of_the_whole(columns: int) -> None:
    x = np.random.default_rng(0).normal(size=(40, columns)).astype(np.float32)
    sums = _Sums((4,))
    for part in (x[:24], x[24:]):
        sums.add({"tap_0": part})
    means, noise = sums.by_matrix(Tapped({"a": "tap_0", "b": "tap_0"}), len(x))
    assert means["a"] is means["b"]
    np.testing.assert_allclose(means["a"], x.T.astype(np.float64) @ x / len(x), rtol=1e-5, atol=1e-6)
    assert np.array_equal(means["a"], means["a"].T) and noise["a"][4].shape == (columns,)


def test_numpy_has_its_threads_again_afterwards() -> None:
    found = _functions()
    if found is None:
        pytest.skip("NumPy came without OpenBLAS")
    before = found[0]()
    with pytest.raises(KeyError), one_blas_thread():
        assert found[0]() == 1
        raise KeyError
    assert found[0]() == before

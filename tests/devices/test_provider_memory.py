"""Memory of a provider does what NumPy does, on a device that is really the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from provider_devices import stand_in

from skipstone.devices.provider_device import ProviderDevice
from skipstone.devices.provider_memory import ProviderBuffer

SHAPE = (2, 3, 10, 8)
TYPES = [np.float32, np.float16, np.int8, np.uint8, np.int64]


@pytest.fixture(scope="module")
def device() -> ProviderDevice:
    return stand_in(takes_offsets=False)


def _filled(device: ProviderDevice, dtype: Any) -> tuple[ProviderBuffer, NDArray[Any]]:
    buffer = device.resident(SHAPE, dtype)
    assert isinstance(buffer, ProviderBuffer)
    array = (np.random.default_rng(0).random(SHAPE) * 100).astype(dtype)
    buffer.write(array)
    return buffer, array


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_are_read_and_written_as_numpy_does(device: ProviderDevice, dtype: Any) -> None:
    buffer, array = _filled(device, dtype)
    for at, values in ((np.s_[:, :, 2:4], 7), (np.s_[0, :, 3:5], array[1, :, 6:8]), (slice(1, 2), array[:1])):
        buffer.write(values, at)
        array[at] = values
        assert np.array_equal(buffer.read(at), array[at])
        assert np.array_equal(buffer.read(), array)


rows = st.lists(st.integers(0, SHAPE[2] - 1), min_size=0, max_size=6, unique=True)


@settings(deadline=None)
@given(rows=rows, start=st.integers(0, 4), dtype=st.sampled_from(TYPES))
def test_rows_are_moved_as_numpy_moves_them(device: ProviderDevice, rows: list[int], start: int, dtype: Any) -> None:
    buffer, array = _filled(device, dtype)
    target = np.s_[:, :, start : start + len(rows)]
    buffer.move(np.s_[:, :, rows], target)
    array[target] = array[:, :, rows]
    assert np.array_equal(buffer.read(), array)


def test_places_that_overlap_are_taken_out_before_they_are_overwritten(device: ProviderDevice) -> None:
    buffer, array = _filled(device, np.float32)
    buffer.move(np.s_[:, :, :6], np.s_[:, :, 2:8])
    array[:, :, 2:8] = array[:, :, :6].copy()
    assert np.array_equal(buffer.read(), array)


def test_a_view_writes_to_the_buffer_that_it_is_a_part_of(device: ProviderDevice) -> None:
    buffer, array = _filled(device, np.float32)
    view = buffer.view(slice(1, 2))
    view.write(5, np.s_[:, 1:, 4])
    array[1:2][:, 1:, 4] = 5
    assert np.array_equal(view.read(), array[1:2]) and np.array_equal(buffer.read(), array)
    assert np.array_equal(view.view(np.s_[:, :1]).read(), array[1:2, :1])


def test_rows_are_taken_over_from_another_buffer(device: ProviderDevice) -> None:
    (buffer, array), shorter = _filled(device, np.int8), device.resident((1, 3, 6, 8), np.int8)
    shorter.write(0)
    shorter.copy_from(buffer.view(slice(1, 2)), np.s_[:, :, :4])
    assert np.array_equal(shorter.read(np.s_[:, :, :4]), array[1:2, :, :4]) and not shorter.read(np.s_[:, :, 4:]).any()


def test_rows_of_odd_sizes_stay_with_the_host(device: ProviderDevice) -> None:
    assert not isinstance(device.resident((2, 3, 7), np.int8), ProviderBuffer)
    assert isinstance(device.resident((2, 3, 7), np.float32), ProviderBuffer)

"""Pools of threads: as large as asked for, awake for a moment only, and without a say in what is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from conftest import MakeBundle
from numpy.typing import NDArray

from skipstone.devices import CpuDevice
from skipstone.devices.thread_pool import AWAKE_US, ThreadPool
from skipstone.runtime.engine import Draft, Model

PROMPT = [*range(5, 26)]


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_settings_of_a_pool_are_those_of_its_session(sleeps: bool) -> None:
    options = ort.SessionOptions()
    ThreadPool(threads=3, sleeps_between_runs=sleeps).set_in(options)
    assert (options.use_per_session_threads, options.intra_op_num_threads) == (True, 3)
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == str(AWAKE_US)
    if sleeps:
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.force_spinning_stop")


def test_only_stages_that_run_in_turn_sleep_between_runs(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    device = CpuDevice(threads=2)
    for exits, staged in (("none", False), ("auto", True)):
        opened = Model.open(make_bundle(tiny_checkpoint, exits=exits), threads=2)
        assert opened.sessions.device == CpuDevice(threads=2, staged=staged)
        assert opened.device == device


def logits(model: Model) -> NDArray[np.float32]:
    """Return those of a prompt, of single tokens and of a draft."""
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    rows = [sequence.extend(Draft.empty()).copy()]
    for _ in range(3):
        sequence.commit([int(rows[-1][-1].argmax())])
        rows.append(sequence.extend(Draft.empty()).copy())
    sequence.commit([7])
    return np.concatenate([*rows, sequence.extend(Draft.chain([8, 9, 10], source="test"))])


@pytest.mark.parametrize("precision", ["int4", "int8", "fp32"])
def test_models_on_other_numbers_of_threads_compute_the_same_bits_side_by_side(
    tiny_checkpoint: Path, make_bundle: MakeBundle, precision: str
) -> None:
    bundle = make_bundle(tiny_checkpoint, precision=precision)
    models = [Model.open(bundle, threads=threads) for threads in (1, 2, 3)]
    assert [model.device.threads for model in models] == [1, 2, 3]
    first, *others = (logits(model) for model in models)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_threads_sleep_at_once_and_stay_on_processors_where_that_is_asked() -> None:
    options = ort.SessionOptions()
    ThreadPool(threads=3, awake_us=0, processors=(4, 6)).set_in(options)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.intra_op_thread_affinities") == "5;7"
    options = ort.SessionOptions()
    ThreadPool(threads=3, processors=(4,)).set_in(options)  # of fewer threads than were measured: nobody is placed
    with pytest.raises(RuntimeError):
        options.get_session_config_entry("session.intra_op_thread_affinities")

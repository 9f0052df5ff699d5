"""Threads of a pool that wait while fewer shall work: the same bits, none left behind, and an end that never hangs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import onnxruntime as ort
import pytest
from conftest import MakeBundle
from numpy.typing import NDArray

from skipstone.devices import CpuDevice
from skipstone.devices.parked_workers import ParkedWorkers
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

PROMPT = [*range(5, 26)]


class PoollessSession:
    """A session whose pool takes no work from outside."""

    def get_inputs(self) -> list[object]:
        return []

    def run_async(self, *arguments: object) -> None:
        raise RuntimeError("intra op thread pool must have at least one thread for RunAsync")


class FullSession(PoollessSession):
    """A session whose queue is full: what it is asked for it does at once, on the thread that asks."""

    def run_async(
        self, outputs: None, feed: object, callback: Callable[..., None], bay: object, options: object
    ) -> None:
        callback([], bay, "")


class InterruptedSession:
    """A session that is interrupted as soon as it has sent a thread away."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session, self.bays = session, list[weakref.ref[object]]()

    def get_inputs(self) -> list[object]:
        return self._session.get_inputs()

    def run_async(self, outputs: None, feed: object, callback: object, bay: object, options: object) -> None:
        self._session.run_async(outputs, feed, callback, bay, options)
        self.bays.append(weakref.ref(bay))
        raise KeyboardInterrupt


@pytest.fixture
def session(tiny: Model) -> ort.InferenceSession:
    return CpuDevice(threads=3).open_session(tiny.bundle.path / tiny.manifest.stages[0].file)


def test_threads_are_parked_and_let_go_again(session: ort.InferenceSession) -> None:
    workers = ParkedWorkers(session, 3)
    for threads, expected in ((1, 1), (2, 2), (0, 1), (9, 3), (1, 1), (3, 3), (2, 2)):
        workers.use(threads)
        assert workers.threads == expected
    workers.close()
    assert workers.threads == 3
    workers.use(1)
    assert workers.threads == 3, "after the end nothing is parked"


def test_a_session_without_a_pool_keeps_its_thread() -> None:
    session = PoollessSession()
    workers = ParkedWorkers(session, 2)  # type: ignore[arg-type]
    workers.use(1)
    assert workers.threads == 2


def test_who_asks_for_a_thread_never_waits_in_its_place() -> None:
    session = FullSession()
    workers = ParkedWorkers(session, 2)  # type: ignore[arg-type]
    asking = Thread(target=workers.use, args=(1,), daemon=True)
    asking.start()
    asking.join(5)
    assert not asking.is_alive()
    workers.use(2)
    workers.close()


def test_a_thread_that_was_sent_away_when_the_interrupt_came_is_let_go(session: ort.InferenceSession) -> None:
    interrupted = InterruptedSession(session)
    workers = ParkedWorkers(interrupted, 3)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        workers.use(1)
    workers.close()
    (bay,) = interrupted.bays
    assert bay() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_sends_no_thread_away_as_it_has_none(tiny: Model) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from skipstone.devices import CpuDevice
from skipstone.devices.parked_workers import ParkedWorkers
session = CpuDevice(threads=2).open_session(Path({str(tiny.bundle.path / tiny.manifest.stages[0].file)!r}))
workers = ParkedWorkers(session, 2)
workers.use(1)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(20)  # a queue that nobody empties was full after a thousand, and then the caller's thread waited
for _ in range(1500):
    workers.use(2)
    workers.use(1)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def logits(model: Model, numbers: list[int]) -> NDArray[np.float32]:
    """Return those of a prompt, of single tokens and of drafts, each call on the next number of threads."""
    sequence, rows = model.new_sequence(), []
    crew, turns = model.sessions.crew, [*numbers] * 9
    for turn, ids in enumerate([PROMPT, [7], [8], [9, 10, 11], [3], [4, 5, 6, 7, 8, 9, 10]]):
        with crew.fixed(turns[turn]):
            sequence.append(ids[:1])
            rows.append(sequence.extend(Draft.chain(ids[1:], source="test")).copy())
            sequence.commit([*ids[1:], 6])
    return np.concatenate(rows)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp32"])
@pytest.mark.parametrize("exits", ["none", "auto"])
def test_a_text_on_changing_numbers_of_threads_is_the_same_to_the_bit(
    tiny_checkpoint: Path, make_bundle: MakeBundle, precision: str, exits: str
) -> None:
    bundle = make_bundle(tiny_checkpoint, precision=precision, exits=exits)
    alone = logits(Model.open(bundle, threads=1), [1])
    changing = Model(Bundle.open(bundle), CpuDevice(threads=3, adapts=True))
    for numbers in ([3], [1], [3, 1], [2, 3, 1]):
        np.testing.assert_array_equal(logits(changing, numbers), alone)


def test_a_model_goes_with_its_threads_parked(tiny: Model) -> None:
    model = Model(tiny.bundle, CpuDevice(threads=2, adapts=True))
    session = weakref.ref(model.sessions.graphs[0])
    logits(model, [1])
    del model
    gc.collect()
    assert session() is None


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyError", "del model", "late = step"])
def test_a_process_ends_with_its_threads_parked(tiny: Model, end: str) -> None:
    program = f"""
import atexit, sys
late = lambda: None
atexit.register(lambda: late())  # the first that is registered runs last, as a thread may that nobody waits for
from pathlib import Path
from skipstone.devices import CpuDevice
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model
model = Model(Bundle.open(Path({str(tiny.bundle.path)!r})), CpuDevice(threads=3, adapts=True))
def step():
    sequence = model.new_sequence()
    with model.sessions.crew.fixed(1):
        sequence.append([5])
        sequence.extend(Draft.empty())
step()
{end}
"""
    outcome = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert outcome.returncode == {"sys.exit(3)": 3, "raise KeyError": 1}.get(end, 0)


def test_only_who_names_no_number_adapts(tiny: Model) -> None:
    path = tiny.bundle.path
    assert not Model.open(path, threads=2).sessions.crew.adapts
    most = Model.open(path, max_threads=1)
    assert (most.device.threads, most.sessions.crew.adapts) == (1, False)
    for wrong, word in (({"threads": 2, "max_threads": 2}, "one of the two"), ({"max_threads": 0}, "at least 1")):
        with pytest.raises(ConfigError, match=word):
            Model.open(path, **wrong)

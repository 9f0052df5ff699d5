"""Threads of a model: told before a call, learned from after it, and kept as they were found best."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipstone import LanguageModel
from skipstone.devices import CpuDevice, Session
from skipstone.runtime.costs import CostCurve, costs_note, known_curve
from skipstone.runtime.engine import BestThreads, Model, on_best_threads, threads_note
from skipstone.runtime.engine.crew import Crew


class FakeWorkers:
    def __init__(self) -> None:
        self.threads, self.is_closed = 2, False

    def use(self, threads: int) -> None:
        self.threads = threads

    def close(self) -> None:
        self.is_closed = True


class FakeMachine:
    """A session whose calls take 50 ms on two threads while the machine is busy, and 20 ms on one; else 10 and 16."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 0.0
        self.is_busy = False
        self.workers = FakeWorkers()

    def call(self) -> None:
        threads = self.workers.threads
        spent_s = {(True, 2): 0.05, (True, 1): 0.02, (False, 2): 0.01, (False, 1): 0.016}[self.is_busy, threads]
        self.now_s += spent_s
        self.cpu_s += min(0.02, 0.95 * threads * spent_s)

    def crew(self) -> Crew:
        crew = Crew(2, adapts=True, clock=lambda: self.now_s, processor_clock=lambda: self.cpu_s)
        crew.join(self.session, self.workers)
        return crew

    @property
    def session(self) -> Session:
        return self  # type: ignore[return-value]


def test_the_threads_of_a_session_follow_the_machine() -> None:
    machine = FakeMachine()
    crew = machine.crew()
    for is_busy, threads in ((False, 2), (True, 1), (False, 2), (True, 1)):
        machine.is_busy = is_busy
        end_s = machine.now_s + 5
        while machine.now_s < end_s:
            crew.run("step", [machine.session], machine.call)
        assert (crew.chosen("step"), crew.threads) == (threads, threads)
    assert set(crew.calls) == {1, 2}


def test_another_kind_of_call_begins_with_what_the_last_one_takes() -> None:
    machine = FakeMachine()
    machine.is_busy, crew = True, machine.crew()
    while machine.now_s < 5:
        crew.run("step", [machine.session], machine.call)
    crew.run("prompt", [machine.session], machine.call)
    assert crew.chosen("prompt") == 1


def test_what_is_measured_runs_on_all_threads_or_on_those_that_are_named() -> None:
    machine = FakeMachine()
    crew = machine.crew()
    for threads in (None, 1, 2):
        with crew.fixed(threads):
            crew.run("step", [machine.session], machine.call)
            assert machine.workers.threads == (threads or 2)
    assert not crew.calls


def test_the_end_lets_all_threads_go() -> None:
    machine = FakeMachine()
    machine.crew().close()
    assert machine.workers.is_closed


def test_the_kept_threads_are_taken_unless_somebody_names_a_number(tiny: Model, tmp_path: Path) -> None:
    bundle, device = tiny.bundle, CpuDevice(threads=4, adapts=True)
    assert on_best_threads(bundle, device, tmp_path) is device
    note = threads_note(bundle, device)
    assert note.save(BestThreads(threads=3, awake_us=0, processors=(1, 2)), note.path(tmp_path))
    found = CpuDevice(threads=3, adapts=True, awake_us=0, processors=(1, 2))
    assert on_best_threads(bundle, device, tmp_path) == found
    for bounded in (CpuDevice(threads=2, adapts=True), CpuDevice(threads=4)):
        assert on_best_threads(bundle, bounded, tmp_path).threads == bounded.threads
    assert on_best_threads(bundle, CpuDevice(threads=4), tmp_path) == CpuDevice(threads=4)


def test_a_curve_holds_for_the_threads_that_calls_take_now(tiny: Model, tmp_path: Path) -> None:
    model = Model(tiny.bundle, CpuDevice(threads=2, adapts=True), profiles=tmp_path)
    curves = {threads: CostCurve(rows=(1,), contexts=(1,), seconds=((0.001 * threads,),)) for threads in (1, 2)}
    for threads, curve in curves.items():
        note = costs_note(model, threads=threads)
        note.save(curve, note.path(tmp_path))
    assert known_curve(model) == curves[2]
    with model.sessions.crew.fixed(1):
        assert known_curve(model) == curves[1]


@pytest.mark.parametrize("decode", ["plain", "ngram", "auto"])
def test_stats_say_on_how_many_threads_calls_ran(tiny: Model, decode: str) -> None:
    adaptive = LanguageModel(Model(tiny.bundle, CpuDevice(threads=2, adapts=True)))
    generation = adaptive.generate("def add(first", decode=decode, max_new_tokens=12)
    assert sum(generation.stats.threads.values()) >= generation.stats.model_calls - 1 > 0
    fixed = LanguageModel(Model(tiny.bundle, CpuDevice(threads=2)))
    wanted = fixed.generate("def add(first", decode=decode, max_new_tokens=12)
    assert wanted.stats.threads == {}
    assert wanted.token_ids == generation.token_ids

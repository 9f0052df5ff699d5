"""The gate of a model: one call inside, the others in order, and none behind the end."""

from __future__ import annotations

import time
from threading import Event, Thread

import pytest

from skipstone.devices import Cancellation, Cancelled, cancellable
from skipstone.errors import ConfigError
from skipstone.runtime.engine.gate import LOOKS_S, Gate


class Waiting:
    """A thread that goes through a gate while another is inside."""

    def __init__(self, gate: Gate, done: list[object], name: object, cancellation: Cancellation | None = None) -> None:
        self._gate, self._done, self._name, self._cancellation = gate, done, name, cancellation
        self.thread = Thread(target=self._run, daemon=True)
        before = len(gate._queue)
        self.thread.start()
        while len(gate._queue) == before:
            time.sleep(0.0005)

    def _run(self) -> None:
        try:
            with cancellable(self._cancellation), self._gate:
                self._done.append(self._name)
        except (ConfigError, Cancelled) as error:
            self._done.append(type(error))


def test_calls_run_in_the_order_in_which_they_came() -> None:
    gate, done = Gate(), list[object]()
    with gate:
        threads = [Waiting(gate, done, number).thread for number in range(5)]
        assert done == []
    for thread in threads:
        thread.join(5)
    assert done == [0, 1, 2, 3, 4]


def test_a_call_that_waits_can_be_cancelled_and_the_others_go_on() -> None:
    gate, done, cancellation = Gate(), list[object](), Cancellation()
    with gate:
        first, second = Waiting(gate, done, 1, cancellation).thread, Waiting(gate, done, 2).thread
        cancellation.cancel()
        first.join(100 * LOOKS_S)
        assert done == [Cancelled]
    second.join(5)
    assert done == [Cancelled, 2]


def test_closing_waits_for_the_call_inside_and_turns_the_waiting_ones_away() -> None:
    gate, done, leave, inside = Gate(), list[object](), Event(), Event()

    def stay() -> None:
        with gate:
            inside.set()
            leave.wait(5)
            done.append("inside")

    Thread(target=stay, daemon=True).start()
    inside.wait(5)
    waiting = Waiting(gate, done, 1).thread
    closing = Thread(target=lambda: (gate.close(), done.append("closed")))
    closing.start()
    waiting.join(5)
    assert done == [ConfigError]
    leave.set()
    closing.join(5)
    assert done == [ConfigError, "inside", "closed"]
    with pytest.raises(ConfigError, match="closed"):
        gate.__enter__()


def test_a_call_inside_a_call_is_refused_in_place_of_waiting_for_itself() -> None:
    gate = Gate()
    with gate, pytest.raises(ConfigError, match="runs in this thread"):
        gate.__enter__()
    with gate, pytest.raises(ConfigError, match="runs in this thread"):
        gate.close()
    with gate:
        pass

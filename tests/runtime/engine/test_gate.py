"""The gate of a model: calls inside side by side, and none behind the end."""

from __future__ import annotations

import time
from threading import Barrier, Event, Thread

import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.engine.gate import Gate


def test_calls_of_several_threads_run_side_by_side() -> None:
    gate, meeting = Gate(), Barrier(5, timeout=5)

    def call() -> None:
        with gate:
            meeting.wait()

    threads = [Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not meeting.broken, "all were inside at once"


def test_closing_waits_for_the_call_inside_and_lets_no_other_in() -> None:
    gate, done, leave, inside = Gate(), list[object](), Event(), Event()

    def stay() -> None:
        with gate:
            inside.set()
            leave.wait(5)
            done.append("inside")

    Thread(target=stay, daemon=True).start()
    inside.wait(5)
    closing = Thread(target=lambda: (gate.close(), done.append("closed")))
    closing.start()
    while not gate.is_closed:
        time.sleep(0.0005)
    with pytest.raises(ConfigError, match="closed"):
        gate.__enter__()
    leave.set()
    closing.join(5)
    assert done == ["inside", "closed"]


def test_a_call_inside_a_call_is_refused_in_place_of_waiting_for_itself() -> None:
    gate = Gate()
    with gate, pytest.raises(ConfigError, match="runs in this thread"):
        gate.__enter__()
    with gate, pytest.raises(ConfigError, match="runs in this thread"):
        gate.close()
    with gate:
        pass

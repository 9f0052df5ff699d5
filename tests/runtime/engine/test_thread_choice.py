"""The number of threads that calls take, on simulated machines: a quiet one, a busy one, and one that changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.runtime.engine.thread_choice import AHEAD_S, SHARE_IF_BUSY, TRIAL_S, ThreadChoice, steps_of_threads

Machine = Callable[[int, float], tuple[float, float]]
"""(threads, seconds since the start) -> what a call takes by the clock, and of the processor."""


def run(choice: ThreadChoice, machine: Machine, *, until_s: float, start_s: float = 0.0) -> list[tuple[float, int]]:
    """Make calls; return when each ended, and on how many threads calls were chosen to run then."""
    now_s, seen = start_s, []
    while now_s < until_s:
        spent_s, cpu_s = machine(choice.threads, now_s)
        now_s += spent_s
        choice.learn(spent_s, cpu_s)
        seen.append((now_s, choice.chosen))
    return seen


def quiet(threads: int, at_s: float) -> tuple[float, float]:
    """Each thread works nearly all the time; a second one makes calls 1.6 times as fast."""
    spent_s = 0.016 / (1 + 0.6 * (threads - 1))
    return spent_s, 0.9 * threads * spent_s


def busy_machine(seed: int) -> Machine:
    """Return a machine of two cores with two busy processes: two threads wait for each other, one for its turn."""
    chance = random.Random(seed)

    def machine(threads: int, at_s: float) -> tuple[float, float]:
        if threads == 1:
            return (0.016, 0.016) if (at_s // 0.3) % 2 else (chance.uniform(0.02, 0.036), 0.016)
        return chance.uniform(0.022, 0.058), 0.020

    return machine


def test_a_quiet_machine_keeps_all_threads_and_loses_next_to_nothing() -> None:
    choice = ThreadChoice((1, 2))
    seen = run(choice, quiet, until_s=30.0)
    assert {chosen for _, chosen in seen} == {2}
    assert len(seen) > 0.985 * 30.0 / quiet(2, 0.0)[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_busy_machine_gets_one_thread_soon_and_nearly_all_of_its_speed(seed: int) -> None:
    machine = busy_machine(seed)
    seen = run(ThreadChoice((1, 2)), machine, until_s=20.0)
    assert next(at_s for at_s, chosen in seen if chosen == 1) < 1.5
    alone = run(ThreadChoice((1,)), machine, until_s=20.0)
    both = run(ThreadChoice((2,)), machine, until_s=20.0)
    assert len(alone) > 1.4 * len(both)
    assert len(seen) > 0.9 * len(alone)


def test_threads_leave_when_load_comes_and_are_back_when_it_goes() -> None:
    choice, busy = ThreadChoice((1, 2)), busy_machine(0)

    def machine(threads: int, at_s: float) -> tuple[float, float]:
        return busy(threads, at_s) if 5.0 <= at_s < 15.0 else quiet(threads, at_s)

    seen = run(choice, machine, until_s=25.0)
    assert next(at_s for at_s, chosen in seen if chosen == 1) < 6.5
    assert next(at_s for at_s, chosen in seen if at_s > 15.0 and chosen == 2) < 17.5
    assert seen[-1][1] == 2


def test_load_that_leaves_one_thread_in_peace_is_noticed_to_go_by_a_trial() -> None:
    """One busy process on two cores: one thread has a core of its own, before and after."""

    def machine(threads: int, at_s: float) -> tuple[float, float]:
        if threads == 2 and at_s < 10.0:
            return 0.03, 0.03
        return quiet(threads, at_s)

    seen = run(ThreadChoice((1, 2)), machine, until_s=20.0)
    assert next(at_s for at_s, chosen in seen if chosen == 1) < 1.0
    assert 10.0 < next(at_s for at_s, chosen in reversed(seen) if chosen == 1) < 13.0


def test_of_many_threads_as_many_are_taken_as_find_a_core() -> None:
    def machine(threads: int, at_s: float) -> tuple[float, float]:
        free = 5  # of eight cores
        spent_s = 0.02 / min(threads, free) * (1.0 if threads <= free else 2.0)
        return spent_s, min(threads, free) * spent_s * 0.5 if threads > free else 0.9 * threads * spent_s

    assert run(ThreadChoice(steps_of_threads(8)), machine, until_s=10.0)[-1][1] == 4


def test_calls_of_another_kind_are_compared_soon_after_one_has_changed() -> None:
    choice = ThreadChoice((1, 2))

    def machine(threads: int, at_s: float) -> tuple[float, float]:
        return 0.01 * threads, 0.0095 * 2 * threads  # nobody seems to wait, and one thread is faster

    assert run(choice, machine, until_s=1.0)[-1][1] == 2
    choice.doubt()
    assert run(choice, machine, until_s=0.4)[-1][1] == 1


def test_one_number_is_never_compared() -> None:
    choice = ThreadChoice((3,))
    assert not any(choice.learn(1.0, 0.1) for _ in range(50))
    assert choice.threads == choice.chosen == 3


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 0.5), min_size=2, max_size=6), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6))
def test_whatever_the_machine_does_trials_lose_a_small_share_of_the_time(
    costs: list[float], shares: list[float]
) -> None:
    steps = steps_of_threads(min(len(costs), len(shares)))
    choice, lost_s, total_s = ThreadChoice(steps), 0.0, 0.0
    longest = max(costs)
    for _ in range(400):
        threads = choice.threads
        spent_s = costs[threads - 1]
        lost_s += max(spent_s - costs[choice.chosen - 1], 0.0)
        total_s += spent_s
        choice.learn(spent_s, shares[threads - 1] * threads * spent_s)
    changes = len(steps) * 2
    assert lost_s < SHARE_IF_BUSY * total_s + changes * (AHEAD_S + TRIAL_S + 6 * longest)


def test_the_numbers_that_are_tried_end_with_all() -> None:
    assert [steps_of_threads(most) for most in (1, 2, 3, 4, 6, 8, 10)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6, 8, 10),
    ]  # fmt: skip

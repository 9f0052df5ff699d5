"""When to stop by the midpoint of confidences: replayed by hand."""

from __future__ import annotations

import pytest

from skipstone.runtime.methods.depth import MidpointStop


def ask(stop: MidpointStop, *confidences: float) -> list[bool]:
    return [stop.is_unsure(confidence) for confidence in confidences]


def test_the_threshold_is_halfway_between_what_stood_and_what_fell() -> None:
    stop = MidpointStop()
    ask(stop, 0.9, 0.8, 0.3, 0.7)
    stop.update(num_accepted=2, num_drafted=4)
    # Stood: 0.9 and 0.8. Fell: 0.3. Of the guess behind nobody knows.
    assert stop.threshold == pytest.approx((0.85 + 0.3) / 2)
    ask(stop, 0.6)
    stop.update(num_accepted=1, num_drafted=1)
    # CM = 0.95 * 1.7 + 0.6, M = 0.95 * 2 + 1; CX and X fade alike.
    assert stop.threshold == pytest.approx((2.215 / 2.9 + 0.3) / 2)
    ask(stop, 0.5)
    stop.update(num_accepted=0, num_drafted=1)
    # CX = 0.95**2 * 0.3 + 0.5, X = 0.95**2 + 1.
    assert stop.threshold == pytest.approx((2.215 / 2.9 + 0.77075 / 1.9025) / 2)


def test_it_stops_below_the_threshold_and_not_at_it() -> None:
    stop = MidpointStop()
    ask(stop, 0.75, 0.25)
    stop.update(num_accepted=1, num_drafted=2)
    assert stop.threshold == 0.5
    assert ask(stop, 0.5, 0.499, 0.0, 1.0) == [False, True, True, False]


@pytest.mark.parametrize("num_accepted", [0, 3])
def test_it_never_stops_until_a_guess_has_stood_and_one_has_fallen(num_accepted: int) -> None:
    stop = MidpointStop()
    for _ in range(20):
        assert ask(stop, 0.0, 0.5, 0.1) == [False] * 3
        stop.update(num_accepted=num_accepted, num_drafted=3)
        assert stop.threshold == 0.0


def test_it_learns_from_the_last_draft_only_and_from_none_that_it_was_not_asked_about() -> None:
    stop = MidpointStop()
    ask(stop, 0.1, 0.2)  # proposed, and never fed
    ask(stop, 0.9, 0.4)
    stop.update(num_accepted=1, num_drafted=2)
    assert stop.threshold == pytest.approx(0.65)
    stop.update(num_accepted=1, num_drafted=2)  # somebody else said where the chain ends
    assert stop.threshold == pytest.approx(0.65)

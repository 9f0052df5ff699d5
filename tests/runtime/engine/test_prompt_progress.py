"""How long the rest of a prompt takes, by the pieces that are read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skipstone.runtime.engine import PromptProgress, PromptWatch


def heard(seconds: list[float], *, piece: int, num_tokens: int) -> Iterator[PromptProgress]:
    """Return what is told of pieces that end at these seconds."""
    told: list[PromptProgress] = []
    times = iter([0.0, 0.0, *seconds])
    watch = PromptWatch(told.append, clock=lambda: next(times))
    watch.expect(num_tokens)
    for _ in seconds:
        watch.read(piece)
    return iter(told)


def test_at_an_even_speed_the_rest_takes_as_long_as_what_is_read() -> None:
    told = heard([float(second) for second in range(1, 11)], piece=10, num_tokens=100)
    assert [progress.left_s for progress in told] == pytest.approx([*range(9, -1, -1)])


def test_the_rest_is_as_slow_as_the_trend_of_what_is_read_says() -> None:
    whole = 2.0
    told = [*heard([whole * (part / 10) ** 2 for part in range(1, 11)], piece=10, num_tokens=100)]
    for progress in told[3:]:
        assert progress.left_s == pytest.approx(whole - progress.seconds, rel=0.2, abs=1e-9)


def test_a_slow_first_piece_slows_nothing_behind_it() -> None:
    told = [*heard([5.0, 6.0, 7.0], piece=10, num_tokens=100)]
    assert told[1].left_s == pytest.approx(8.0)

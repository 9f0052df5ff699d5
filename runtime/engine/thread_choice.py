"""How many threads calls of one kind take: as many as do them fastest now, which on a busy machine are fewer.

Whoever waits for a thread that the system has put aside loses more than the thread gives. So another number is tried
for some calls: when threads get less of the processor than they ask for, and otherwise so seldom that trials cost next
to nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["ThreadChoice", "are_starved", "steps_of_threads"]

# Calls that are compared at least, and seconds; where threads wait for others longer, as the system moves them about.
LEAST_CALLS, LEAST_S = 4, 0.03
TRIAL_S, WINDOW_S = 0.5, 0.3
# The share of the time that trials may take which lose: next to nothing while all threads get what they ask for; more
# while they wait, and on fewer, where only a trial shows that all would be faster again. Then so many seconds may be
# spent ahead, once.
SHARE, SHARE_IF_BUSY, AHEAD_S = 0.005, 0.04, 0.3
# Another number is taken when its calls take no more than this of the time. If threads wait, fewer are taken also where
# that takes as long, since it leaves more to others; and more only for a greater gain.
GAIN, SAME, GREAT = 0.93, 1.03, 0.8
# Two calls that take so many times as long are enough to see that another number does not pay.
HOPELESS: Final = 1.5
# The caller's thread works all the time, and each of the others this share of it; with less they wait for others.
CALLER, WORKER = 0.95, 0.3


def steps_of_threads(most: int) -> tuple[int, ...]:
    """Return the numbers of threads that are tried, up to `most`: 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    steps, size = [1], 2
    while size < most:
        steps += [size, size * 3 // 2]
        size *= 2
    return (*(step for step in steps if step < most), most)


def are_starved(threads: int, spent_s: float, cpu_s: float) -> bool:
    """Whether threads waited for others of the machine, given seconds of calls and the processor's seconds in them."""
    return cpu_s < CALLER * (1 + WORKER * (threads - 1)) * spent_s


class _Calls:
    """Calls on one number of threads: how many, their seconds, and of the last `WINDOW_S` what they are compared by."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._last = deque[tuple[float, float]]()  # seconds, and the processor's seconds in them
        self._last_s = self._last_cpu_s = 0.0
        self.count, self.total_s = 0, 0.0

    def add(self, spent_s: float, cpu_s: float) -> None:
        self.count, self.total_s = self.count + 1, self.total_s + spent_s
        self._last.append((spent_s, cpu_s))
        self._last_s, self._last_cpu_s = self._last_s + spent_s, self._last_cpu_s + cpu_s
        while len(self._last) > LEAST_CALLS and self._last_s - self._last[0][0] > WINDOW_S:
            spent_s, cpu_s = self._last.popleft()
            self._last_s, self._last_cpu_s = self._last_s - spent_s, self._last_cpu_s - cpu_s

    @property
    def are_enough(self) -> bool:
        """Whether there are as many as it takes to compare."""
        return self.count >= LEAST_CALLS and self.total_s >= LEAST_S

    @property
    def mean_s(self) -> float:
        return self._last_s / len(self._last)

    @property
    def is_starved(self) -> bool:
        """Whether the threads waited for others."""
        return are_starved(self._threads, self._last_s, self._last_cpu_s)


class ThreadChoice:
    """The number of threads of one kind of call, which are alike in rows and parts, and cost nearly the same.

    Invariant: trials that lost took at most `SHARE_IF_BUSY` of the seconds that were learned, `AHEAD_S`, and one trial.
    """

    def __init__(self, steps: tuple[int, ...], *, start: int | None = None) -> None:
        """`steps` are the numbers that may be taken, rising; it starts with `start`, by default with the last."""
        self._steps, self._place = steps, len(steps) - 1 if start is None else steps.index(start)
        self._trial: int | None = None  # the place in `steps` that is tried
        self._now, self._tried = _Calls(self.chosen), _Calls(self.chosen)
        self._credit_s = 0.0
        self._lost_s: dict[int, float] = {}  # by place, what the last trial there took too long
        self._skips, self._is_doubted = True, False

    @property
    def threads(self) -> int:
        """How many the next call takes."""
        return self._steps[self._place if self._trial is None else self._trial]

    @property
    def chosen(self) -> int:
        """How many calls take, save those that try another number."""
        return self._steps[self._place]

    def doubt(self) -> None:
        """Let a trial come soon: calls of another kind take another number now."""
        self._is_doubted = True

    def learn(self, spent_s: float, cpu_s: float) -> bool:
        """Count a call on `threads` threads, and the processor's seconds in it; return whether another number is taken.

        The first call on another number does not count: threads wake, and memory comes from elsewhere.
        """
        if len(self._steps) == 1:
            return False
        if self._skips:
            self._skips = False
        elif self._trial is not None:
            self._tried.add(spent_s, cpu_s)
            return self._is_decided(self._trial) and self._decide(self._trial)
        else:
            self._now.add(spent_s, cpu_s)
            is_quiet = self._place == len(self._steps) - 1 and not self._now.is_starved
            self._credit_s += spent_s * (SHARE if is_quiet else SHARE_IF_BUSY)
            if self._now.are_enough:
                self._consider()
        return False

    def _consider(self) -> None:
        """Begin a trial where one is due."""
        place = self._neighbour()
        price_s = self._lost_s.get(place, max(LEAST_CALLS * self._now.mean_s, LEAST_S))
        is_likely = self._is_doubted or (place < self._place and self._now.is_starved)
        if price_s <= self._credit_s + AHEAD_S * is_likely:
            self._trial, self._tried, self._skips = place, _Calls(self._steps[place]), True

    def _neighbour(self) -> int:
        """Return the place to try next: fewer threads, or more, whichever promises more."""
        places = [place for place in (self._place - 1, self._place + 1) if 0 <= place < len(self._steps)]
        return min(places, key=lambda place: self._lost_s.get(place, 0.0))

    def _is_decided(self, place: int) -> bool:
        """Whether the trial has shown enough: at once where no thread waits, or more threads wait and gain nothing."""
        tried = self._tried
        may_settle = place < self._place and self._now.is_starved  # the system may still find a place for them
        if tried.count > 1 and not may_settle and tried.mean_s > HOPELESS * self._now.mean_s:
            return True
        if tried.total_s >= TRIAL_S or not tried.are_enough:
            return tried.total_s >= TRIAL_S
        return not tried.is_starved or (place > self._place and not self._is_better(place))

    def _is_better(self, place: int) -> bool:
        share = GAIN
        if place < self._place and self._now.is_starved:
            share = SAME
        elif place > self._place and self._tried.is_starved:
            share = GREAT
        return self._tried.mean_s < share * self._now.mean_s

    def _decide(self, place: int) -> bool:
        """End the trial; return whether its number is taken from now on."""
        tried, is_better = self._tried, self._is_better(place)
        self._trial, self._is_doubted = None, False
        if is_better:
            self._place, self._now, self._lost_s = place, tried, {}
            self._credit_s = max(self._credit_s, 0.0)
            return True
        self._lost_s[place] = max(tried.total_s - tried.count * self._now.mean_s, 0.0)
        self._credit_s -= self._lost_s[place]
        self._skips = True
        return False

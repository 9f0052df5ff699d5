"""The threads on which the sessions of a model run: as many as do each kind of call fastest now."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from threading import Lock
from time import perf_counter, process_time

from skipstone.devices import Session, Workers
from skipstone.runtime.engine.thread_choice import ThreadChoice, steps_of_threads

__all__ = ["Crew"]


class Crew:
    """Decides before each call on how many threads it runs, and learns from how long it took.

    All texts of a model share it. Invariant: only numbers of `steps` are taken; where there is one, nothing is timed.
    """

    def __init__(
        self,
        threads: int,
        *,
        adapts: bool = False,
        clock: Callable[[], float] = perf_counter,
        processor_clock: Callable[[], float] = process_time,
    ) -> None:
        """`threads` is how many sessions were opened with, and the most; fewer are taken if it `adapts`."""
        self.most, self.calls = threads, Counter[int]()
        self._steps = steps_of_threads(threads) if adapts else (threads,)
        self._clock, self._processor_clock = clock, processor_clock
        self._choices: dict[Hashable, ThreadChoice] = {}
        self._workers: dict[int, Workers] = {}
        self._last: ThreadChoice | None = None  # of the call before
        self._fixed: int | None = None
        self._lock = Lock()

    @property
    def adapts(self) -> bool:
        return len(self._steps) > 1

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of threads that may be taken, rising."""
        return self._steps

    @property
    def threads(self) -> int:
        """How many calls take now, as the last one's kind has chosen; all where none was made."""
        return self._newest() if self._fixed is None else self._fixed

    def join(self, session: Session, workers: Workers) -> None:
        """Let the threads of a session be told how many of them work."""
        self._workers[id(session)] = workers

    def chosen(self, kind: Hashable) -> int:
        """Return on how many threads calls of a kind run, save those that try another number."""
        with self._lock:
            return self._choices[kind].chosen if kind in self._choices else self._newest()

    def run(self, kind: Hashable, sessions: Sequence[Session], call: Callable[[], None]) -> None:
        """Make a call that runs `sessions`; calls of one `kind` cost nearly the same."""
        if not self.adapts:
            call()
            return
        if self._fixed is not None:
            self._use(sessions, self._fixed)
            call()
            return
        with self._lock:
            choice = self._last = self._choice(kind)
            threads = choice.threads
        self._use(sessions, threads)
        start, cpu_start = self._clock(), self._processor_clock()
        call()
        spent_s, cpu_s = self._clock() - start, self._processor_clock() - cpu_start
        with self._lock:
            self.calls[threads] += 1
            if choice.threads == threads and choice.learn(spent_s, cpu_s):
                for other in self._choices.values():
                    if other is not choice:
                        other.doubt()

    @contextlib.contextmanager
    def fixed(self, threads: int | None = None) -> Iterator[None]:
        """Let all calls meanwhile run on so many threads, by default on all; to measure what they take."""
        before, self._fixed = self._fixed, self.most if threads is None else threads
        try:
            yield
        finally:
            self._fixed = before

    def close(self) -> None:
        """Let all threads go, so that their sessions may be dropped."""
        for workers in self._workers.values():
            workers.close()
        self._workers.clear()

    def _use(self, sessions: Sequence[Session], threads: int) -> None:
        for session in sessions:
            if workers := self._workers.get(id(session)):
                workers.use(threads)

    def _choice(self, kind: Hashable) -> ThreadChoice:
        if kind not in self._choices:
            self._choices[kind] = ThreadChoice(self._steps, start=self._newest())
        return self._choices[kind]

    def _newest(self) -> int:
        """Return what the last call's kind has chosen: a new kind begins with it."""
        return self._steps[-1] if self._last is None else self._last.chosen

"""Fewer threads for a session that is open: some of its pool wait in a callback, and take no work meanwhile.

onnxruntime fixes the number of a session's threads when it is opened. But what `run_async` is given runs on a thread of
the pool, and so does the callback behind it: a thread whose callback waits is parked. The work of every operator is cut
as before, and whoever is there does all of it, so that each bit comes out the same. To park costs no memory, and takes
as long as to wake a thread.
"""

from __future__ import annotations

import os
import time
import weakref
from threading import Lock, get_ident
from typing import Any, Final

import numpy as np
import onnxruntime as ort

__all__ = ["ParkedWorkers"]

NO_LOGS: Final = 4
LEAVES_S, LOOK_S = 5.0, 0.0005  # how long a thread may take to leave its callback, and between two looks
TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class _Bay:
    """Where one thread is parked until `leave`. It is alive as long as the thread's callback."""

    def __init__(self) -> None:
        self._gate, self._asked_by = Lock(), get_ident()
        self._gate.acquire()

    def wait(self) -> None:
        """Keep the calling thread; but not the one that asked, which does the work itself where the queue is full."""
        if get_ident() != self._asked_by:
            self._gate.acquire()

    def leave(self) -> None:
        """Let the thread go; to say it twice does no harm."""
        if self._gate.locked():
            self._gate.release()


class ParkedWorkers:
    """The threads of one session, of which some may be parked.

    Invariant: `threads` are at work, the caller's included, and the other bays each keep one of the pool's.
    A session whose threads are parked must not be dropped: it would wait for them. `close` comes first.
    """

    def __init__(self, session: ort.InferenceSession, threads: int) -> None:
        """`threads` is how many the session was opened with."""
        self.most = self.threads = threads
        self._can_park = True
        self._session = weakref.ref(session)
        self._bays: list[_Bay] = []
        self._left: list[weakref.ref[_Bay]] = []
        self._lock, self._process = Lock(), os.getpid()
        self._end = weakref.finalize(self, _close, self._process, self._bays, self._left)

    def use(self, threads: int) -> None:
        """Let so many threads work from the next run on, at least the caller's and at most all; all where none park.

        A process that was forked meanwhile has the caller's only: nothing is asked of the others there.
        """
        threads = min(max(threads, 1), self.most) if self._can_park else self.most
        if threads == self.threads or self._process != os.getpid():
            return
        with self._lock:
            while self.most - len(self._bays) > threads and self._park():
                pass
            while self.most - len(self._bays) < threads:
                _leave(self._bays, self._left)
            self._left[:] = [bay for bay in self._left if bay() is not None]
            self.threads = self.most - len(self._bays)

    def close(self) -> None:
        """Let all threads go, and wait until they have left."""
        with self._lock:
            self._can_park = False
            self._end()
            self.threads = self.most

    def _park(self) -> bool:
        """Send one more thread to a bay; return whether that could be asked for.

        The bay is known before the thread is sent: an interrupt may come any time, and who is not known never leaves.
        """
        session = self._session()
        if session is None or not self._can_park or not self._end.alive:  # not alive: the process ends
            return False
        bay = _Bay()
        options = ort.RunOptions()
        options.terminate, options.log_severity_level = True, NO_LOGS
        self._bays.append(bay)
        try:
            session.run_async(None, _feed(session), _wait, bay, options)
        except Exception:  # onnxruntime's errors have no base; a session without a pool has one
            self._bays.remove(bay)
            self._can_park = False
            return False
        return True


def _feed(session: ort.InferenceSession) -> dict[str, Any]:
    """Return something for each input: the run ends before anybody looks at it."""
    return {
        argument.name: np.zeros([1] * len(argument.shape or ()), TYPES.get(argument.type, np.float32))
        for argument in session.get_inputs()
    }


def _wait(results: object, bay: _Bay, error: str) -> None:
    """Keep the thread that calls this until its bay lets it go."""
    bay.wait()


def _leave(bays: list[_Bay], left: list[weakref.ref[_Bay]]) -> None:
    """Let the last bay's thread go. It is forgotten after that, as an interrupt may come any time."""
    bay = bays[-1]
    left.append(weakref.ref(bay))
    bay.leave()
    bays.pop()


def _close(process: int, bays: list[_Bay], left: list[weakref.ref[_Bay]]) -> None:
    """Let all threads go and wait for them: they need Python to leave, and nobody may end their pool before.

    In a process that was forked meanwhile there are none.
    """
    if process != os.getpid():
        return
    while bays:
        _leave(bays, left)
    end = time.monotonic() + LEAVES_S
    while any(bay() is not None for bay in left) and time.monotonic() < end:
        time.sleep(LOOK_S)

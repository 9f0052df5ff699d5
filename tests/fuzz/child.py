"""One try in a process of its own: what it did, how long and how large it was. Runs on systems with `fork`."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skipstone.errors import SkipstoneError

__all__ = ["Outcome", "tried"]

MOST_CPU_S: Final = 2.0
KILLED_AFTER_S: Final = 10
MOST_LETTERS: Final = 1000
SPARE_BYTES: Final = 200e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a try ended: `refused`, `ran`, or in a failure: `crash`, `hang`, `peak`, `lines`, `error`."""

    kind: str
    told: str
    cpu_s: float
    peak_bytes: float

    @property
    def failed(self) -> bool:
        return self.kind not in ("refused", "ran")


def tried(work: Callable[[], object], *, file_bytes: int) -> Outcome:
    """Run `work` in a forked child, and return what came of it; its peak is counted above the parent's size."""
    read, write = os.pipe()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(work, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status, usage = os.wait4(child, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    peak_bytes = max(0.0, (usage.ru_maxrss - before) * 1024.0)
    kind, message = json.loads(told) if told else ("crash", f"status {status}")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        is_late = number in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        kind, message = "hang" if is_late else "crash", f"signal {number}"
    if kind in ("refused", "ran") and cpu_s > MOST_CPU_S:
        kind = "hang"
    if kind in ("refused", "ran") and peak_bytes > 2 * file_bytes + SPARE_BYTES:
        kind = "peak"
    return Outcome(kind=kind, told=message, cpu_s=cpu_s, peak_bytes=peak_bytes)


def _run(work: Callable[[], object], write: int) -> None:
    """Do the work, tell how it ended, and end this process at once."""
    resource.setrlimit(resource.RLIMIT_CPU, (KILLED_AFTER_S, KILLED_AFTER_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(6 * KILLED_AFTER_S)
    silent = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silent, descriptor)
    start = time.monotonic()
    try:
        work()
        outcome = ("ran", f"{time.monotonic() - start:.2f} s")
    except SkipstoneError as error:
        message = str(error)
        is_line = len(message.splitlines()) <= 1 and len(message) <= MOST_LETTERS
        outcome = ("refused" if is_line else "lines", message)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        at = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
        outcome = ("error", f"{type(error).__name__}: {error}{at}")
    os.write(write, json.dumps((outcome[0], outcome[1][:4000])).encode())
    sys.stdout.flush()
    os._exit(0)

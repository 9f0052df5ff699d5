"""The threads of a session: how many there are, and how long an idle one stays awake.

Each session has threads of its own. onnxruntime's pool for a whole process is not used: with it, every session that
another part of the program opens in the usual way is refused. The settings here are what is left to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnxruntime as ort

__all__ = ["ThreadPool"]

# Idle threads look for work without sleeping for this time. To wake one costs some 50 microseconds, and between two
# operators passes less. On a busy machine a thread that stays awake takes the processor from those with work:
# onnxruntime's own choice, about a millisecond, decoded there at half the speed and less (docs/benchmarks.md, Threads
# of sessions).
AWAKE_US: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPool:
    """The pool of one session: `threads`, of which one is the caller's.

    With `sleeps_between_runs` the others sleep as soon as a run ends. That frees the processor for the next stage of
    the same model; a model of one stage would only wake them again. An idle one stays awake for `awake_us`
    microseconds. The others stay on `processors`, one for each, where some are named; the caller's thread is its own
    affair.
    """

    threads: int
    sleeps_between_runs: bool = False
    awake_us: int = AWAKE_US
    processors: tuple[int, ...] = ()

    def set_in(self, options: ort.SessionOptions) -> None:
        """Let a session that is opened with these options have this pool."""
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(self.awake_us))
        if not self.awake_us:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        workers = self.processors[: self.threads - 1]
        if workers and len(workers) == self.threads - 1:
            places = ";".join(str(number + 1) for number in workers)  # onnxruntime counts them from 1
            options.add_session_config_entry("session.intra_op_thread_affinities", places)
        if self.sleeps_between_runs:
            options.add_session_config_entry("session.force_spinning_stop", "1")

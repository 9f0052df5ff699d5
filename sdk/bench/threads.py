"""How fast a bundle decodes on 1 thread and on more, with idle ones awake for longer or not, and where they run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from skipstone.bench.speed import PROMPT_TOKENS, benchmark
from skipstone.devices import fastest_first, own_processors, speed_of
from skipstone.errors import CacheFull, DeviceError, SkipstoneError
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import BestThreads, are_starved

__all__ = ["ThreadSpeed", "answer", "measure_threads", "other_places"]

USUAL_US: Final = 200
# An idle thread that sleeps at once, and one that waits as long as onnxruntime's own choice.
OTHER_US: Final = (0, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSpeed:
    """The speed of plain decoding on a number of threads; medians over the runs.

    An idle thread stays awake for `awake_us` microseconds. All but the caller's stay on `processors`, where some are
    named. `decode_cpu_s_per_token` are the processor's seconds that a token takes on all of them.
    """

    threads: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    decode_cpu_s_per_token: float
    awake_us: int = USUAL_US
    processors: tuple[int, ...] = ()

    @property
    def is_starved(self) -> bool:
        """Whether other programs took what the threads asked for; those that sleep at once ask for little."""
        return self.awake_us > 0 and are_starved(
            self.threads, 1 / self.decode_tokens_per_s, self.decode_cpu_s_per_token
        )

    @property
    def place(self) -> BestThreads:
        return BestThreads(threads=self.threads, awake_us=self.awake_us, processors=self.processors)


@checks_arguments
def measure_threads(
    path: Path,
    counts: Iterable[int],
    *,
    new_tokens: int = 96,
    runs: int = 3,
    device: str = "cpu",
    on_progress: Callable[[int], None] = lambda num_counts: None,
) -> list[ThreadSpeed]:
    """Return the speed of a bundle on each number of threads, as `skipstone bench speed` measures it.

    The fastest number, or of one thread the largest, is measured again with idle threads that sleep at once, and with
    such that stay awake longer; and on processors of their own where these differ, or are more than threads. Each is
    measured in a process of its own, so that none finds the memory of another warm. The prompt has 128 tokens, or what
    the context has room for. Raises: CacheFull; DeviceError when a measurement fails.
    """
    room = Bundle.open(path).manifest.context_length
    if new_tokens >= room:
        needed = f"{new_tokens} new tokens need a context of {new_tokens + 1}"
        raise CacheFull(f"{needed}, the model's has {room}; lower --new-tokens")
    sizes = {"prompt_tokens": min(PROMPT_TOKENS, room - new_tokens), "new_tokens": new_tokens, "runs": runs}
    speeds: list[ThreadSpeed] = []

    def measure(places: Iterable[BestThreads]) -> None:
        for place in places:
            speeds.append(_measured({"path": str(path), "device": device, **sizes}, place))
            on_progress(1)

    measure(BestThreads(threads=count, awake_us=USUAL_US) for count in counts)
    best = max(speeds, key=lambda speed: speed.decode_tokens_per_s).threads
    measure(other_places(best if best > 1 else max(speed.threads for speed in speeds)))
    return speeds


def other_places(threads: int, root: Path = Path("/")) -> list[BestThreads]:
    """Return what else may be faster on so many threads: other times awake, and processors of their own.

    `root` holds Linux's `sys`. One thread has no others that could wait.
    """
    if threads == 1:
        return []
    others = [BestThreads(threads=threads, awake_us=awake_us) for awake_us in OTHER_US]
    processors = fastest_first(own_processors(), root)
    differ = len({speed_of(processor, root) for processor in processors}) > 1
    if len(processors) > threads or (differ and len(processors) >= threads):
        # The caller's thread is placed by the system, which takes the fastest one that is free.
        others.append(BestThreads(threads=threads, awake_us=USUAL_US, processors=processors[1:threads]))
    return others


def _measured(settings: dict[str, Any], place: BestThreads) -> ThreadSpeed:
    """Return the speed at one place, measured in a process of its own. Raises: DeviceError."""
    program = "from skipstone.bench.threads import answer; answer()"
    request = json.dumps({**settings, "place": asdict(place)})
    outcome = subprocess.run([sys.executable, "-c", program], input=request, capture_output=True, text=True)
    if outcome.returncode:
        raise DeviceError(outcome.stderr.strip().removeprefix("skipstone: ") or "the measurement failed")
    record: dict[str, Any] = json.loads(outcome.stdout)
    return ThreadSpeed(**{**record, "processors": tuple(record["processors"])})


def answer() -> None:
    """Measure what standard input asks for, and print it: the whole of a process that measures."""
    request = json.load(sys.stdin)
    fields = request.pop("place")
    place = BestThreads(**{**fields, "processors": tuple(fields["processors"])})
    try:
        result = benchmark(Path(request.pop("path")), place=place, **request)
    except SkipstoneError as error:
        sys.exit(f"skipstone: {error}")
    speeds = ("decode_tokens_per_s", "prefill_tokens_per_s", "decode_cpu_s_per_token")
    print(json.dumps({**asdict(place), **{name: getattr(result, name) for name in speeds}}))

"""How fast a bundle decodes on 1 thread and on more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.bench.speed import PROMPT_TOKENS
from skipstone.errors import CacheFull, DeviceError
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import Bundle

__all__ = ["ThreadSpeed", "measure_threads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSpeed:
    """The speed of plain decoding on a number of threads; medians over the runs."""

    threads: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float


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

    Each is measured in a process of its own, so that none finds the memory of another warm. The prompt has
    128 tokens, or what the context has room for. Raises: CacheFull; DeviceError when a measurement fails.
    """
    room = Bundle.open(path).manifest.context_length
    if new_tokens >= room:
        needed = f"{new_tokens} new tokens need a context of {new_tokens + 1}"
        raise CacheFull(f"{needed}, the model's has {room}; lower --new-tokens")
    sizes = {"--prompt-tokens": min(PROMPT_TOKENS, room - new_tokens), "--new-tokens": new_tokens, "--runs": runs}
    settings = [str(word) for pair in sizes.items() for word in pair] + ["--device", device]
    speeds = []
    for count in counts:
        record = _bench(str(path), *settings, "--threads", str(count))
        figures = {name: record[name] for name in ThreadSpeed.__dataclass_fields__}
        speeds.append(ThreadSpeed(**figures))
        on_progress(1)
    return speeds


def _bench(*arguments: str) -> dict[str, Any]:
    program = "from skipstone.cli import main; main()"
    command = [sys.executable, "-c", program, "bench", "speed", *arguments, "--output", "json", "--quiet"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode:
        raise DeviceError(outcome.stderr.strip().removeprefix("skipstone: ") or "the measurement failed")
    record: dict[str, Any] = json.loads(outcome.stdout)
    return record

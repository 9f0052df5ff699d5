"""How fast a bundle is on this device: a frozen record of what was run and what came out."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from skipstone.devices import ThreadedDevice, open_device
from skipstone.errors import CacheFull, ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.decoding import PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import BestThreads, CacheName, Model, PrefillName
from skipstone.runtime.generation import peak_memory_bytes
from skipstone.runtime.sampling import Sampler

__all__ = ["PROMPT_TOKENS", "BenchResult", "benchmark"]

PROMPT_TOKENS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One benchmark. Speeds are medians over `runs`; `decode_p90_ms` is over all steps of all runs.

    `decode_cpu_s_per_token` are the processor's seconds that a token takes on all threads, which a battery pays for.
    `weight_gb_per_s` is what decoding reads of the weights per second, to hold against the memory's bandwidth.
    """

    bundle: str
    precision: str
    device: str
    threads: int
    runtime: str
    prompt_tokens: int
    new_tokens: int
    runs: int
    load_s: float
    load_to_first_token_s: float
    ttft_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_p90_ms: float
    decode_cpu_s_per_token: float
    weight_gb_per_s: float
    peak_memory_bytes: int
    command: str


@checks_arguments
def benchmark(
    path: Path,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = 96,
    runs: int = 5,
    device: str = "cpu",
    threads: int | None = None,
    max_threads: int | None = None,
    cache: CacheName | None = None,
    prefill: PrefillName = "auto",
    place: BestThreads | None = None,
    on_progress: Callable[[int], None] = lambda run: None,
) -> BenchResult:
    """Return the speed of plain decoding after a prompt of random tokens; a run before the counted ones warms up.

    `place` is for the bundle's own cache and graphs, on threads that are fixed. Stop tokens are ignored, so that every
    run makes the same number of tokens. Raises: CacheFull, BundleError.
    """
    if min(prompt_tokens, runs) < 1 or new_tokens < 2:
        given = f"{prompt_tokens}, {runs} and {new_tokens}"
        raise ConfigError(f"a benchmark needs at least 1 prompt token, 1 run and 2 new tokens, got {given}")
    start = time.perf_counter()
    if place is None:
        model = Model.open(path, device=device, threads=threads, max_threads=max_threads, cache=cache, prefill=prefill)
    else:
        model = _placed(path, device, place)
    load_s = time.perf_counter() - start
    _require_room(model, prompt_tokens, new_tokens)
    prompt = np.random.default_rng(0).integers(0, model.manifest.dimensions.vocab_size, prompt_tokens).tolist()
    (cold, _), *timed = _time_runs(model, prompt, new_tokens, runs, on_progress)
    times, cpu_s = [run for run, _ in timed], [spent_s for _, spent_s in timed]
    ttft_s = statistics.median(run[0] for run in times)
    decode_tokens_per_s = (new_tokens - 1) / statistics.median(sum(run[1:]) for run in times)
    return BenchResult(
        bundle=str(path),
        precision=model.manifest.precision,
        device=model.device.name,
        threads=model.device.threads,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        runs=runs,
        load_s=load_s,
        load_to_first_token_s=load_s + cold[0],
        ttft_ms=ttft_s * 1e3,
        prefill_tokens_per_s=prompt_tokens / ttft_s,
        decode_tokens_per_s=decode_tokens_per_s,
        decode_cpu_s_per_token=statistics.median(cpu_s),
        decode_p90_ms=float(np.percentile([run[1:] for run in times], 90)) * 1e3,
        weight_gb_per_s=model.manifest.files["weights.bin"].size * decode_tokens_per_s / 1e9,
        peak_memory_bytes=peak_memory_bytes(),
        command=shlex.join(["skipstone", *sys.argv[1:]]),
    )


def _placed(path: Path, device: str, place: BestThreads) -> Model:
    """Return a model on threads as they are given. Raises: ConfigError for a device that cannot place them."""
    opened = open_device(device, threads=place.threads)
    if not isinstance(opened, ThreadedDevice):
        raise ConfigError(f"the threads of {device} cannot be chosen, those of cpu can")
    return Model(Bundle.open(path), opened.placed(**asdict(place)))


def _require_room(model: Model, prompt_tokens: int, new_tokens: int) -> None:
    needed, room = prompt_tokens + new_tokens, model.manifest.context_length
    if needed > room:
        raise CacheFull(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones need {needed}, the model's context has "
            f"{room}; lower --prompt-tokens or --new-tokens"
        )


def _time_runs(
    model: Model, prompt: list[int], new_tokens: int, runs: int, on_progress: Callable[[int], None]
) -> list[tuple[list[float], float]]:
    """Return what `_time_run` does, run by run, a run that warms up before the others."""
    times = [_time_run(model, prompt, new_tokens)]
    for run in range(runs):
        times.append(_time_run(model, prompt, new_tokens))
        on_progress(run + 1)
    return times


def _time_run(model: Model, prompt: list[int], new_tokens: int) -> tuple[list[float], float]:
    """Return seconds to the first token and of each later one, and the processor's seconds of a later one."""
    sequence = model.new_sequence()
    sequence.append(prompt)
    sequence.begin()
    accept = match(Sampler(greedy=True), sequence.token_ids)
    steps = decode(sequence, drafter=PlainDrafter(), accept=accept, max_new_tokens=new_tokens, stop_ids=())
    start = time.perf_counter()
    next(steps)
    ends, cpu_start = [time.perf_counter()], time.process_time()
    ends += [time.perf_counter() for _ in steps]
    cpu_s = (time.process_time() - cpu_start) / (new_tokens - 1)
    times: list[float] = np.diff([start, *ends]).tolist()
    return times, cpu_s

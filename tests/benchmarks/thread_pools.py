"""What pools of threads cost: milliseconds of a plain step for several settings, in turn (A B C C B A ...).

python tests/benchmarks/thread_pools.py BUNDLE [POOL ...] [--threads 2] [--starts 5] [--rounds 4] [--new-tokens 8]

Each pool is measured in a process of its own, which waits while the others run; all are started anew `--starts` times,
since one process may lie better in memory than the next. `x` is the speed against the first pool named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep

import onnxruntime as ort

from skipstone.devices import CpuDevice
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Sequence

SPIN, STOP = "session.intra_op.spin_duration_us", {"session.force_spinning_stop": "1"}
POOLS: dict[str, dict[str, str]] = {
    "global": {},  # one pool for the process
    "default": {},  # one for each session, as onnxruntime sets it
    "no-spin": {"session.intra_op.allow_spinning": "0"},
    "stop": STOP,
    **{f"spin-{us}": {SPIN: str(us)} for us in (10, 50, 100, 200, 500)},
    **{f"stop-{us}": {SPIN: str(us), **STOP} for us in (10, 50, 100, 200, 500)},
}
PROMPT = [*range(5, 37)]
Sample = tuple[list[float], float]
"""Wall milliseconds of each step, processor milliseconds of a step."""


class Pooled(CpuDevice):
    """The CPU whose sessions have the pool called `pool`."""

    pool: str = "global"

    def open_session(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.use_per_session_threads = self.pool != "global"
        if options.use_per_session_threads:
            options.intra_op_num_threads = self.threads
        for key, value in POOLS[self.pool].items():
            options.add_session_config_entry(key, value)
        return ort.InferenceSession(path, options, providers=[self.provider])


def step(sequence: Sequence) -> float:
    start = perf_counter()
    sequence.commit([int(sequence.extend(Draft.empty())[0].argmax())])
    return (perf_counter() - start) * 1e3


def sample(model: Model, new_tokens: int) -> Sample:
    sequence = model.new_sequence(context_length=len(PROMPT) + new_tokens + 8)
    sequence.append(PROMPT)
    for _ in range(4):
        step(sequence)
    start = process_time()
    steps = [step(sequence) for _ in range(new_tokens)]
    return steps, (process_time() - start) / new_tokens * 1e3


def serve(bundle: str, pool: str, threads: int, new_tokens: int) -> None:
    """Measure once for each line of standard input."""
    Pooled.pool = pool
    if pool == "global":
        ort.set_global_thread_pool_sizes(threads, 1)
    model = Model(Bundle.open(Path(bundle)), Pooled(threads=threads))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(sample(model, new_tokens)), flush=True)


def measure(arguments: argparse.Namespace, samples: dict[str, list[Sample]]) -> None:
    """Add the samples of one start."""
    settings = [str(arguments.threads), str(arguments.new_tokens)]
    command = [sys.executable, __file__, "--serve", arguments.bundle]
    servers = {pool: subprocess.Popen([*command, pool, *settings], stdin=-1, stdout=-1, text=True) for pool in samples}
    for server in servers.values():
        server.stdout.readline()  # type: ignore[union-attr]
    for number in range(arguments.rounds):
        for pool in list(samples)[:: -1 if number % 2 else 1]:
            print(file=servers[pool].stdin, flush=True)
            steps, processor = json.loads(servers[pool].stdout.readline())  # type: ignore[union-attr]
            samples[pool].append((steps, processor))
            sleep(0.03)
    for server in servers.values():
        server.communicate()


def report(samples: dict[str, list[Sample]]) -> None:
    def spread(pool: str) -> tuple[float, float]:
        steps = sorted(value for steps, _ in samples[pool] for value in steps)
        return steps[len(steps) // 10], median(steps)

    first = spread(next(iter(samples)))
    print(f"{'pool':10} {'p10 ms':>8} {'median':>8} {'CPU ms':>8} {'x p10':>7} {'x median':>9}")
    for pool, values in samples.items():
        fast, middle = spread(pool)
        processor = median(processor for _, processor in values)
        print(f"{pool:10} {fast:8.3f} {middle:8.3f} {processor:8.3f} {first[0] / fast:7.3f} {first[1] / middle:9.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("pools", nargs="*", default=["global", "default", "no-spin", "spin-200", "stop-200"])
    for name, default in (("threads", 2), ("starts", 5), ("rounds", 4), ("new-tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    samples: dict[str, list[Sample]] = {pool: [] for pool in arguments.pools}
    for _ in range(arguments.starts):
        measure(arguments, samples)
    report(samples)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()

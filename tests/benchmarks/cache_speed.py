"""What a decoding step takes behind a long text: our types of cache beside those of llama.cpp, in turn, in one sitting.

python tests/benchmarks/cache_speed.py BUNDLE [MODEL.gguf] [--context 3000] [--rounds 9] [--steps 24] [--threads 2]

BUNDLE was exported with `--cache int8`; llama.cpp runs where llama-cpp-python is installed. Each model has a process of
its own, which waits while others run. A round's figure is the median of its steps; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

import numpy as np

import skipstone
from skipstone.runtime.engine import Draft

FIRST_TOKEN, WARM_UP = 3, 8
Step = Callable[[int], None]
Rewind = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A model with a type of cache; `flash` is that attention of llama.cpp."""

    name: str
    path: str
    cache: str
    context: int
    steps: int
    threads: int
    flash: bool | None = None

    def open(self) -> tuple[Step, Rewind]:
        """Return what feeds a token behind the text, and what forgets all that was fed behind it."""
        return self._open_bundle() if self.flash is None else self._open_gguf()

    def _open_bundle(self) -> tuple[Step, Rewind]:
        model = skipstone.load(self.path, threads=self.threads, cache=self.cache).runtime
        sequence = model.new_sequence(context_length=self.context + self.steps + 2, exact=None)
        sequence.append(random_tokens(model.manifest.dimensions.vocab_size, self.context))
        sequence.extend(Draft.empty())

        def step(token_id: int) -> None:
            sequence.append([token_id])
            sequence.extend(Draft.empty())

        return step, lambda: sequence.rollback(self.context)

    def _open_gguf(self) -> tuple[Step, Rewind]:
        import llama_cpp

        kinds = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
        model = llama_cpp.Llama(
            self.path,
            n_ctx=self.context + self.steps + 64,
            n_threads=self.threads,
            n_threads_batch=self.threads,
            type_k=kinds[self.cache],
            type_v=kinds[self.cache],
            flash_attn=bool(self.flash),
            verbose=False,
        )
        model.eval(random_tokens(model.n_vocab(), self.context))

        def rewind() -> None:
            model.n_tokens = self.context

        return lambda token_id: model.eval([token_id]), rewind


def random_tokens(vocab_size: int, count: int) -> list[int]:
    """Return tokens by chance, the same each time."""
    ids: list[int] = np.random.default_rng(0).integers(FIRST_TOKEN, vocab_size - 1, count).tolist()
    return ids


def serve(runner: Runner, pipe: Connection) -> None:
    """Time a round of steps for each message, until one is False."""
    step, rewind = runner.open()
    tokens = random_tokens(1000, runner.steps)
    for token_id in tokens[:WARM_UP]:
        step(token_id)
    pipe.send(0.0)
    while pipe.recv():
        rewind()
        seconds = []
        for token_id in tokens:
            start = time.perf_counter()
            step(token_id)
            seconds.append(time.perf_counter() - start)
        pipe.send(median(seconds))


def measure(runners: list[Runner], rounds: int) -> list[list[float]]:
    """Return each runner's seconds a step, by round."""
    context, pipes = multiprocessing.get_context("spawn"), []
    for runner in runners:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(runner, theirs), daemon=True).start()
        theirs.close()  # so that a process that dies is an end of file here
        ours.recv()
        pipes.append(ours)
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for pipe, seconds in zip(pipes, times, strict=True):
            time.sleep(0.2)
            pipe.send(True)
            seconds.append(pipe.recv())
    for pipe in pipes:
        pipe.send(False)
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("gguf", nargs="?")
    parser.add_argument("--context", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--caches", default="fp32,int8", help="types of the bundle, apart by commas")
    options = parser.parse_args()
    shared = {"context": options.context, "steps": options.steps, "threads": options.threads}
    runners = [
        Runner(name=f"skipstone {cache}", path=options.bundle, cache=cache, **shared)
        for cache in options.caches.split(",")
    ]
    if options.gguf:
        for cache, flash in (("f16", False), ("f16", True), ("q8_0", True)):
            name = f"llama.cpp {cache}{' flash' if flash else ''}"
            runners.append(Runner(name=name, path=options.gguf, cache=cache, flash=flash, **shared))
    times = measure(runners, options.rounds)
    print(f"one token behind {options.context:,}, {options.threads} threads, medians of {options.rounds} rounds")
    print("| cache | ms a step | best | " + " | ".join(f"x {runner.name}" for runner in runners) + " |")
    print("|---" * (3 + len(runners)) + "|")
    for runner, seconds in zip(runners, times, strict=True):
        ratios = (median(b / a for a, b in zip(seconds, others, strict=True)) for others in times)
        cells = [f"{1e3 * median(seconds):.2f}", f"{1e3 * min(seconds):.2f}", *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| {runner.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

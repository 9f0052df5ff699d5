"""What drafting while the target verifies gains where two cores are two devices, against both cores for either model.

python tests/benchmarks/async_drafting.py BUNDLE [--draft-model BUNDLE] [--acceptance A] [--length D] [--rounds 5]

In turn (A B C C B A ...), tokens per second of decoding after the prompt, medians over the rounds:
plain on 2 threads and on 1; `model` on 2 threads, drafting and verifying in turn; `async-model` with 1 thread for each
model, at the same time. With `--acceptance` the text is one that the draft model writes, in which a share 1 - A of the
tokens is another one by chance: so any two models of the same tokens can be tried, and chains have `--length` guesses.

Beside the measured figures stands what to expect. With D guesses a round, each right with a chance A, a round gives
E = (1 - A^(D+1)) / (1 - A) tokens. In turn it takes D * t_draft + t_target. At the same time it takes
max(t_target, (D+1) * t_draft) after a hit, which has the chance h = A^(D+1) (all guesses and the one for the target's
own token), and D * t_draft + t_target after a miss. Times are those of calls alone, so what the two lose to each other
on one memory bus is the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from skipstone.api import resolve
from skipstone.devices import open_device
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.decoding import Accept, Drafter, ModelDrafter, PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods.small_model import AsyncDrafter, Follower, RunAhead
from skipstone.runtime.sampling import Likeliest, Sampler

PROMPT = "Write a function that adds two numbers, and explain in a few sentences how it works.\n\n"
SAMPLER = Sampler(greedy=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its draft model, each on so many threads; `num_threads` 1 of both means a core for each."""

    target: Model
    drafter: Model

    @classmethod
    def open(cls, target: Bundle, drafter: Bundle, *, threads: int) -> Pair:
        return cls(*(Model(bundle, open_device(threads=threads)) for bundle in (target, drafter)))

    def follower(self, capacity: int) -> Follower:
        return Follower(self.drafter, capacity=capacity, vocab_size=self.target.manifest.dimensions.vocab_size)


class FixedLength:
    """Ends every chain after so many guesses."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def is_unsure(self, confidence: float) -> bool:
        return False

    def update(self, *, num_accepted: int, num_drafted: int) -> None:
        pass


class Counted(RunAhead):
    """Counts how often the text came as it was guessed, the token after the draft too."""

    num_rounds = num_hits = 0

    def tell(self, token_ids: Sequence[int]) -> None:
        epoch = self.num_epochs
        super().tell(token_ids)
        if token_ids and epoch:
            self.num_rounds, self.num_hits = self.num_rounds + 1, self.num_hits + (epoch == self.num_epochs)


@dataclass(slots=True)
class Run:
    """One text: its speed, the seconds of a round in which drafts were waited for and in which the target ran."""

    tokens_per_s: float
    draft_ms: float
    model_ms: float
    tokens_per_call: float
    acceptance: float
    hit_rate: float = float("nan")


@dataclass(frozen=True, slots=True)
class Task:
    """What is written: `told` is the text that comes in any case, None where the target decides."""

    prompt: list[int]
    num_tokens: int
    told: list[int] | None
    length: int | None

    def accept(self, history: Sequence[int]) -> Accept:
        if self.told is None:
            return match(SAMPLER, history)
        told = self.told

        def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
            coming = told[len(history) :]
            return coming[: len(draft.path(coming))]

        return accept

    def stop(self) -> FixedLength | None:
        return None if self.length is None else FixedLength(self.length)


def run(pair: Pair, task: Task, method: str) -> Run:
    """Write the text once, by a method."""
    sequence = pair.target.new_sequence(context_length=len(task.prompt) + task.num_tokens + 32, exact=None)
    sequence.append(task.prompt)
    drafter: Drafter = PlainDrafter()
    ahead, picker = None, Likeliest(SAMPLER)
    if method == "model":
        drafter = ModelDrafter(pair.follower(sequence.capacity), picker, stop=task.stop())
    elif method == "async":
        text = pair.follower(sequence.capacity)
        ahead = Counted(text, picker)
        drafter = AsyncDrafter(ModelDrafter(ahead, picker, chain=ahead.guesses, stop=task.stop()), ahead)
    steps, start, first = [], 0.0, 0
    for step in decode(
        sequence,
        drafter=drafter,
        accept=task.accept(sequence.token_ids),
        max_new_tokens=task.num_tokens,
        stop_ids=(),
    ):
        if not start:  # the prompt, and with the next step the draft model reads it
            start, first = perf_counter(), len(step.token_ids)
        steps.append(step)
    seconds, later = perf_counter() - start, steps[2:]
    drafted = sum(step.num_drafted for step in steps)
    return Run(
        (task.num_tokens - first) / seconds,
        1e3 * median(step.draft_s for step in later),
        1e3 * median(step.model_s for step in later),
        sum(len(step.token_ids) for step in later) / len(later),
        sum(step.num_accepted for step in steps) / drafted if drafted else float("nan"),
        ahead.num_hits / max(1, ahead.num_rounds) if ahead else float("nan"),
    )


def call_ms(model: Model, num_rows: int, *, length: int = 128, times: int = 9) -> float:
    """Return what a call of so many rows takes alone."""
    sequence = model.new_sequence(context_length=length + 64, exact=None)
    sequence.append([5] * length)
    draft, taken = Draft.chain([5] * (num_rows - 1), source="timed"), []
    for _ in range(times):
        start = perf_counter()
        sequence.extend(draft)
        taken.append(perf_counter() - start)
    return 1e3 * median(taken[1:])


def written(drafter: Model, prompt: list[int], num_tokens: int, acceptance: float, vocab_size: int) -> list[int]:
    """Return a text of the draft model in which some tokens are others, by chance."""
    sequence, chance = drafter.new_sequence(context_length=len(prompt) + num_tokens), np.random.default_rng(0)
    sequence.append(prompt)
    for _ in range(num_tokens):
        likeliest = int(sequence.extend(Draft.empty())[0][:vocab_size].argmax())
        other = (likeliest + 1 + int(chance.integers(vocab_size - 1))) % vocab_size
        sequence.commit([likeliest if chance.random() < acceptance else other])
    return [*sequence.token_ids]


def expected(acceptance: float, length: int, t_target: float, t_draft: float, *, together: bool) -> float:
    """Return the tokens per second to expect, given milliseconds of calls."""
    tokens = length + 1 if acceptance == 1 else (1 - acceptance ** (length + 1)) / (1 - acceptance)
    in_turn, hit = length * t_draft + t_target, acceptance ** (length + 1) if together else 0.0
    return 1e3 * tokens / (hit * max(t_target, (length + 1) * t_draft) + (1 - hit) * in_turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--draft-model")
    parser.add_argument("--acceptance", type=float)
    parser.add_argument("--length", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args()
    if options.acceptance is not None and options.length is None:
        parser.error("--acceptance needs --length")
    target = Bundle.open(resolve(options.bundle))
    drafter = Bundle.open(resolve(options.draft_model)) if options.draft_model else target.open_draft_model()
    assert drafter is not None, "name a draft model"
    both, each = (Pair.open(target, drafter, threads=threads) for threads in (2, 1))
    prompt, told = both.target.tokenizer.encode(PROMPT), None
    if options.acceptance is not None:
        vocab_size = min(bundle.manifest.dimensions.vocab_size for bundle in (target, drafter))
        prompt = [token_id % vocab_size for token_id in prompt]
        told = written(both.drafter, prompt, options.new_tokens + 32, options.acceptance, vocab_size)
    task = Task(prompt, options.new_tokens, told, options.length)
    arms: dict[str, Callable[[], Run]] = {
        "plain, 2 threads": lambda: run(both, task, "plain"),
        "model, 2 threads in turn": lambda: run(both, task, "model"),
        "async-model, 1 + 1 threads": lambda: run(each, task, "async"),
        "model, 1 thread in turn": lambda: run(each, task, "model"),
        "plain, 1 thread": lambda: run(each, task, "plain"),
    }
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for number in range(1 + options.rounds):
        for name in [*arms] if number % 2 else [*reversed(arms)]:
            result = arms[name]()
            if number:
                runs[name].append(result)
    show(runs)
    explain(both, each, runs, options.acceptance, options.length)


def show(runs: dict[str, list[Run]]) -> None:
    base = runs["plain, 2 threads"]
    print("| | tokens/s | x plain | waited for drafts, ms | target's call, ms | tokens a call | accepted | hits |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, made in runs.items():
        ratio = median(one.tokens_per_s / other.tokens_per_s for one, other in zip(made, base, strict=True))
        middle = {field: median(getattr(one, field) for one in made) for field in Run.__slots__}
        print(
            f"| {name} | {middle['tokens_per_s']:.1f} | {ratio:.2f} | {middle['draft_ms']:.2f} | "
            f"{middle['model_ms']:.2f} | {middle['tokens_per_call']:.2f} | {middle['acceptance']:.2f} | "
            f"{middle['hit_rate']:.2f} |"
        )


def explain(both: Pair, each: Pair, runs: dict[str, list[Run]], acceptance: float | None, length: int | None) -> None:
    """Print what calls take alone, and what the formula makes of it."""
    made = runs["model, 2 threads in turn"]
    if acceptance is None:
        acceptance = median(one.acceptance for one in made)
    if length is None:  # about: chains end where the drafter is unsure
        length = max(1, round((median(one.tokens_per_call for one in made) - 1) / max(acceptance, 0.05)))
    for name, pair, together in (("2 threads in turn", both, False), ("1 + 1 threads at once", each, True)):
        t_target, t_plain, t_draft = call_ms(pair.target, 1 + length), call_ms(pair.target, 1), call_ms(pair.drafter, 1)
        speed = expected(acceptance, length, t_target, t_draft, together=together)
        print(
            f"{name}: the target's call {t_plain:.2f} ms, of {1 + length} rows {t_target:.2f} ms, the draft model's "
            f"{t_draft:.2f} ms; at acceptance {acceptance:.2f} and {length} guesses {speed:.1f} tokens/s expected"
        )


if __name__ == "__main__":
    main()

"""Decoding methods side by side: the same prompts in turn, and what each method makes of plain decoding's speed."""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from skipstone.bench.comparison_result import Comparison, Run
from skipstone.bench.suite import Suite
from skipstone.errors import CacheFull, ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.engine import Model, SharedStores
from skipstone.runtime.generation import Generation, GenerationOptions, peak_memory_bytes, stream
from skipstone.runtime.methods import PLAIN, MethodChoice

__all__ = ["compare", "method_names", "unread"]


@checks_arguments
def compare(
    model: Model,
    suite: Suite,
    methods: Sequence[str],
    *,
    new_tokens: int = 128,
    rounds: int = 3,
    exact: bool | None = None,
    on_progress: Callable[[int], None] = lambda num_runs: None,
) -> Comparison:
    """Return what each method makes of the suite, greedily, with plain decoding as the base in any case.

    A method is `auto`, or drafters joined by `+`, such as `ngram+model`. Each prompt is continued by all methods in
    turn, in another order each round; stop tokens are ignored, so that all make `new_tokens`. A method remembers what
    it saw within a round, as for a user with one question after another, and nothing of other rounds: no answer is
    ever read from memory. `exact` is that of all texts; with False drafts go on where near ties may part from plain
    decoding. `on_progress` gets the runs done. Each run makes the system count the peak memory of this
    process anew. Raises: ConfigError, CacheFull, both before a run counts.
    """
    names = method_names(methods)
    if new_tokens < 2 or rounds < 1:
        raise ConfigError(f"a comparison needs at least 2 new tokens and 1 round, got {new_tokens} and {rounds}")
    options = {name: replace(_options(name, new_tokens), exact=exact) for name in names}
    tasks, peak_bytes = _tasks(model, suite, new_tokens), peak_memory_bytes()
    runs = _runs(model, tasks, options, rounds, on_progress)
    return Comparison(
        bundle=str(model.bundle.path),
        precision=model.manifest.precision,
        device=model.device.name,
        threads=model.device.threads,
        draft_device=model.draft_device.name if model.has_draft_model else None,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        suite=suite.name,
        new_tokens=new_tokens,
        rounds=rounds,
        methods=names,
        categories=tuple(category.name for category in suite.categories),
        adversarial=tuple(category.name for category in suite.categories if category.adversarial),
        process_peak_memory_bytes=max(peak_bytes, peak_memory_bytes(), *(run.peak_memory_bytes or 0 for run in runs)),
        command=shlex.join(["skipstone", *sys.argv[1:]]),
        runs=tuple(runs),
    )


def method_names(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods, plain before all others. Raises: ConfigError for one that is unknown or given twice."""
    given = [method.strip() for method in methods]
    if len(given) != len(set(given)):
        raise ConfigError(f"each method is compared once, got {','.join(given)}")
    for name in given:
        _options(name, 2)
    return (PLAIN.name, *(name for name in given if name != PLAIN.name))


def _options(method: str, new_tokens: int) -> GenerationOptions:
    return GenerationOptions(max_new_tokens=new_tokens, decode=method.replace("+", ","))


@dataclass(frozen=True, slots=True)
class _Task:
    category: str
    prompt: str
    token_ids: list[int]


def _tasks(model: Model, suite: Suite, new_tokens: int) -> list[_Task]:
    """Return all prompts as tokens. Raises: CacheFull when one does not fit with its answer."""
    tasks = [
        _Task(category.name, prompt.name, model.tokenizer.encode(prompt.text))
        for category in suite.categories
        for prompt in category.prompts
    ]
    longest = max(tasks, key=lambda task: len(task.token_ids))
    needed, room = len(longest.token_ids) + new_tokens, model.manifest.context_length
    if needed > room:
        raise CacheFull(
            f"prompt {longest.prompt} of suite {suite.name} and {new_tokens} new tokens need {needed}, "
            f"the model's context has {room}; make fewer new tokens with --new-tokens, or take another --suite"
        )
    return tasks


def _runs(
    model: Model,
    tasks: Sequence[_Task],
    options: Mapping[str, GenerationOptions],
    rounds: int,
    on_progress: Callable[[int], None],
) -> list[Run]:
    """Return all runs in their order; one more of each method comes before, to warm up."""
    runs = list[Run]()
    for method in options:
        _run(unread(model), tasks[0], options[method])
    for number in range(1, rounds + 1):
        models = {method: unread(model) for method in options}
        first = (number - 1) % len(options)
        order = [*options][first:] + [*options][:first]
        for task in tasks:
            done = {method: _run(models[method], task, options[method]) for method in order}
            runs += [_record(number, task, method, done) for method in order]
            on_progress(len(runs))
    return runs


def _run(model: Model, task: _Task, options: GenerationOptions) -> tuple[Generation, int | None]:
    """Return the continuation of a prompt, and the most memory that the process held meanwhile, if that can be told."""
    counted_anew = _forget_peak_memory()
    trees = MethodChoice.parse(options.decode).needs_trees
    sequence = model.new_sequence(exact=False if trees else options.wants_exact)
    sequence.append(task.token_ids)
    generation = Generation.join(list(stream(model, sequence, options)))
    return generation, generation.stats.peak_memory_bytes if counted_anew else None


def _forget_peak_memory() -> bool:
    """Let the system count the peak of this process from now on, and return whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc_pid_clear_refs(5): the peak only
    except OSError:
        return False
    return True


def _record(number: int, task: _Task, method: str, done: Mapping[str, tuple[Generation, int | None]]) -> Run:
    generation, peak_bytes = done[method]
    stats = generation.stats
    return Run(
        round=number,
        category=task.category,
        prompt=task.prompt,
        method=method,
        prompt_tokens=stats.prompt_tokens,
        tokens_per_s=stats.decode_tokens_per_s,
        model_calls=stats.model_calls,
        drafted=sum(drafter.drafted for drafter in stats.drafters.values()),
        accepted=sum(drafter.accepted for drafter in stats.drafters.values()),
        same_text=generation.token_ids == done[PLAIN.name][0].token_ids,
        peak_memory_bytes=peak_bytes,
    )


class _UnreadStores(SharedStores):
    """Stores that know of no text yet; what was opened or measured for the model is shared with `kept`."""

    def __init__(self, kept: SharedStores) -> None:
        super().__init__()
        self._kept = kept

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the store `name`; a draft model is the kept one, itself without memory of texts."""
        if name == "cost curve":
            return self._kept.get(name, make)
        if name == "draft model":
            return super().get(name, lambda: _unread_drafter(self._kept.get(name, make)))
        return super().get(name, make)


def _unread_drafter(drafter: Model | None) -> Model | None:
    return None if drafter is None else unread(drafter)


def unread(model: Model) -> Model:
    """Return the same model without memory of any text and without stop tokens; the sessions are shared."""
    fresh = copy.copy(model)
    fresh.manifest = replace(model.manifest, stop_ids=())
    fresh.shared = _UnreadStores(model.shared)
    return fresh

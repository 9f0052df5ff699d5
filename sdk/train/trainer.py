"""Adapters for the exits of any checkpoint, trained without labels: each exit learns to say what the full model says.

The model itself stays as it is. Along a text, the loss is KL(p_full || p_exit), summed over the exits.
Source: self-supervised exits (Valade, 2024, arXiv 2407.21082). Hidden states come from our own runtime.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from skipstone.exporters.checkpoints import adapters_bytes
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import depth_hidden
from skipstone.train.head import LearningAdapter, SharedHead, require_torch, threads_for
from skipstone.train.plan import TrainingPlan, windows_a_step

__all__ = ["ExitReport", "batches_from", "schedule", "train"]

WARM_UP = 0.05  # of all steps
SAVE_EVERY_S = 30.0
# Logits of this many rows times words of the vocabulary are held for each depth.
MOST_LOGITS = 2**21

OnProgress: TypeAlias = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitReport:
    """One exit on held-out text, plain and with its adapter.

    Agreement is the share of tokens that are the full model's choice, KL is KL(full || exit) in nats per token.
    """

    num_layers: int
    agreement_before: float
    agreement_after: float
    kl_before: float
    kl_after: float


def train(
    plan: TrainingPlan, *, on_progress: OnProgress = lambda step, loss: None, save_every_s: float = SAVE_EVERY_S
) -> list[ExitReport]:
    """Train the adapters, write them, and return how the exits do on held-out text, before and after.

    `on_progress` gets the steps done and the last one's KL in nats per token, over all exits. The state is kept every
    `save_every_s` and at Ctrl-C; the same plan goes on from there, and gives the same file. The same plan on the same
    machine gives the same bytes. Cost: a bundle in fp32 in the folder for temporary files; each step runs all layers.
    """
    folders = tempfile.TemporaryDirectory(prefix="skipstone-", ignore_cleanup_errors=True)
    with folders as folder, threads_for(plan.export.architecture.dimensions):
        bundle = Path(folder) / "bundle"
        plan.export.write(bundle)
        trainer = _Trainer(plan, Model.open(bundle))
        try:
            trainer.run(on_progress, save_every_s)
            reports = trainer.reports()
        except KeyboardInterrupt:
            trainer.save()
            raise
    learned = {layers: adapter.weights() for layers, adapter in trainer.adapters.items()}
    plan.run.finish(adapters_bytes(learned, weights=plan.weights))
    return reports


class _Trainer:
    """The adapters of one run, their optimizer, and the state of both after the last whole step."""

    def __init__(self, plan: TrainingPlan, model: Model) -> None:
        self._torch, self._plan, self._model = require_torch(), plan, model
        self._head = SharedHead(plan.export)
        d = plan.export.architecture.dimensions
        generator = self._torch.Generator().manual_seed(plan.training.seed)
        self.adapters = {
            layers: LearningAdapter(d.hidden_size, plan.rank, generator) for layers in sorted(plan.export.exits)
        }
        self._parameters = [one for adapter in self.adapters.values() for one in adapter.parameters]
        self._optimizer = self._torch.optim.Adam(self._parameters, lr=plan.training.learning_rate)
        self._most_rows = max(1, MOST_LOGITS // d.vocab_size)
        if plan.state is not None:
            self._restore(plan.state)
        self._state = self._snapshot(plan.first_step)

    def run(self, on_progress: OnProgress, save_every_s: float) -> None:
        """Take the steps that are left."""
        plan, saved = self._plan, time.monotonic()
        batches = batches_from(plan.first_step, plan.windows, plan.training.seed)
        for step in range(plan.first_step, plan.steps):
            for group in self._optimizer.param_groups:
                group["lr"] = plan.training.learning_rate * schedule(step, plan.steps)
            loss = self._step(next(batches))
            self._state = self._snapshot(step + 1)
            on_progress(step + 1, loss)
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()

    def save(self) -> None:
        """Keep the state after the last whole step; one that was interrupted may be half done."""
        self._plan.run.save(self._state)

    def _step(self, windows: SequenceOf[SequenceOf[int]]) -> float:
        num_tokens, total = sum(map(len, windows)), 0.0
        self._optimizer.zero_grad()
        for hidden in self._hidden(windows):
            with self._torch.no_grad():
                wanted = self._head.log_probs(hidden[max(hidden)])
                chances = wanted.exp()
            for layers, adapter in self.adapters.items():
                logits = self._head.logits(adapter(hidden[layers]))
                found = self._torch.log_softmax(logits.detach(), dim=-1)
                total += float((chances * (wanted - found)).sum())
                # The slope of KL in the logits, known, spares torch from keeping what leads to it.
                logits.backward((found.exp() - chances) / num_tokens)
        self._optimizer.step()
        return total / num_tokens

    def reports(self) -> list[ExitReport]:
        """Judge the exits on the held-out text."""
        sums = {layers: np.zeros((2, 2)) for layers in self.adapters}
        with self._torch.no_grad():
            for hidden in self._hidden(self._plan.held_out):
                wanted = self._head.log_probs(hidden[max(hidden)])
                for layers, adapter in self.adapters.items():
                    for index, state in enumerate((hidden[layers], adapter(hidden[layers]))):
                        found = self._head.log_probs(state)
                        agreeing = (found.argmax(-1) == wanted.argmax(-1)).sum().item()
                        sums[layers][index] += agreeing, float((wanted.exp() * (wanted - found)).sum())
        num_tokens = sum(map(len, self._plan.held_out))
        return [_report(layers, one / num_tokens) for layers, one in sums.items()]

    def _hidden(self, windows: SequenceOf[SequenceOf[int]]) -> Iterator[dict[int, Any]]:
        """Yield hidden states [N, E] by number of layers, in pieces whose logits fit."""
        for window in windows:
            for piece in depth_hidden(self._model, window):
                for start in range(0, len(piece[max(piece)]), self._most_rows):
                    # Copied: how torch adds up may depend on where in memory an array begins.
                    rows = slice(start, start + self._most_rows)
                    yield {layers: self._torch.tensor(states[rows]) for layers, states in piece.items()}

    def _snapshot(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "parameters": [parameter.detach().clone() for parameter in self._parameters],
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        with self._torch.no_grad():
            for parameter, kept in zip(self._parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])


def _report(layers: int, means: Any) -> ExitReport:
    (agreement_before, kl_before), (agreement_after, kl_after) = means.tolist()
    return ExitReport(
        num_layers=layers,
        agreement_before=agreement_before,
        agreement_after=agreement_after,
        kl_before=kl_before,
        kl_after=kl_after,
    )


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: it rises over the first ones, then falls along a cosine."""
    warm_up = max(1, round(WARM_UP * steps))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batches_from(step: int, windows: SequenceOf[list[int]], seed: int) -> Iterator[list[list[int]]]:
    """Yield the windows of each step from one on; the order within an epoch depends on the seed and the epoch alone."""
    size = windows_a_step(windows)
    while True:
        places = [divmod(number, len(windows)) for number in range(step * size, (step + 1) * size)]
        orders = {epoch: np.random.default_rng((seed, epoch)).permutation(len(windows)) for epoch, _ in places}
        yield [windows[orders[epoch][index]] for epoch, index in places]
        step += 1

"""The exits of a checkpoint in torch: adapters that learn, before the final norm and the head, which do not.

Shapes: N rows, E hidden size, V vocabulary, r rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.exporters.checkpoints import EPSILON, ExitAdapter
from skipstone.exporters.graph import ModelWeights
from skipstone.runtime.bundle import Dimensions

__all__ = ["LearningAdapter", "SharedHead", "require_torch", "threads_for"]

SMALL_HEAD = 2**24  # weights; below, threads of torch cost more in waiting for each other than they save


def require_torch() -> Any:
    """Return torch. Raises: ConfigError when it is not installed."""
    if find_spec("torch") is None:
        raise ConfigError("training needs torch, which is not installed; pip install skipstone[train]")
    return import_module("torch")


@contextmanager
def threads_for(dimensions: Dimensions, threads: int | None = None) -> Iterator[None]:
    """Let torch have so many threads; None is one while the head is small, as many as it likes otherwise."""
    torch = require_torch()
    before = torch.get_num_threads()
    if threads is None and dimensions.vocab_size * dimensions.hidden_size < SMALL_HEAD:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class SharedHead:
    """The final norm and head of a checkpoint, in float32: what turns any hidden states into logits."""

    def __init__(self, plan: ExportPlan) -> None:
        self._torch, self._architecture = require_torch(), plan.architecture
        weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
        gain, bias = weights.final_norm()
        self._gain = self._torch.from_numpy(gain)
        self._bias = None if bias is None else self._torch.from_numpy(bias)
        name = "embedding" if plan.architecture.tied_embedding else "head"
        self._matrix = self._torch.from_numpy(np.ascontiguousarray(weights.read(name)))

    def log_probs(self, hidden: Any) -> Any:
        """Return natural-log probabilities [N, V] for hidden states [N, E]."""
        return self._torch.log_softmax(self.logits(hidden), dim=-1)

    def logits(self, hidden: Any) -> Any:
        """Return logits [N, V] for hidden states [N, E]."""
        a, functions = self._architecture, self._torch.nn.functional
        if a.norm == "rms":
            normed = functions.rms_norm(hidden, self._gain.shape, self._gain, a.norm_epsilon)
        else:
            normed = functions.layer_norm(hidden, self._gain.shape, self._gain, self._bias, a.norm_epsilon)
        logits = normed @ self._matrix.T
        return logits if a.logit_cap is None else a.logit_cap * self._torch.tanh(logits)


class LearningAdapter:
    """The adapter of one exit while it learns; at first it changes nothing that the head would see."""

    def __init__(self, hidden_size: int, rank: int, generator: Any) -> None:
        self._torch = torch = require_torch()
        self.gain = torch.ones(hidden_size, requires_grad=True)
        down = torch.randn(rank, hidden_size, generator=generator) * hidden_size**-0.5
        self.down = down.requires_grad_()
        self.up = torch.zeros(hidden_size, rank, requires_grad=True)

    @property
    def parameters(self) -> list[Any]:
        """What learns: gain, down and up."""
        return [self.gain, self.down, self.up]

    def __call__(self, hidden: Any) -> Any:
        """Return what the head reads, [N, E], for the hidden states of the exit [N, E]."""
        normed = self._torch.nn.functional.rms_norm(hidden, self.gain.shape, self.gain, EPSILON)
        return normed + normed @ self.down.T @ self.up.T

    def weights(self) -> ExitAdapter:
        """Return a copy of what was learned."""
        gain, down, up = (parameter.detach().numpy().copy() for parameter in self.parameters)
        return ExitAdapter(gain=gain, down=down, up=up)

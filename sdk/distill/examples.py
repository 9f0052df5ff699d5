"""The windows of a training: texts that the model writes, or those of a file, some held back to judge by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from skipstone.calibrate import token_ids_of
from skipstone.distill.own_texts import own_texts
from skipstone.distill.plan import WINDOW, ExpertTrainingPlan
from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model

__all__ = ["Windows", "held_out", "order_of", "windows_for"]

Windows: TypeAlias = list[list[int]]
_HELD_OUT: Final = 4
_LEAST: Final = 4


def windows_for(plan: ExpertTrainingPlan, model: Model, on_text: Callable[[int], None]) -> Windows:
    """Return all windows of a training; those of an interrupted run are in its state. Raises: ConfigError."""
    if plan.state is not None:
        return [list(window) for window in plan.state["windows"]]
    size = min(WINDOW, model.manifest.context_length - 1)
    if plan.documents is None:
        texts = own_texts(model, plan.training.tokens, plan.training.seed, on_text)
        token_ids = [token_id for text in texts for token_id in text]
    else:
        token_ids = [*token_ids_of(model.tokenizer, model.chat_template, plan.documents)]
    windows = [token_ids[start : start + size] for start in range(0, len(token_ids) - size + 1, size)]
    if len(windows) < _LEAST:
        raise ConfigError(
            f"the text has {len(token_ids)} tokens; a training wants at least {_LEAST * size}, better 10,000 or more: "
            "give a longer one, or leave --text out"
        )
    return windows


def held_out(windows: Windows) -> tuple[Windows, Windows]:
    """Return the windows to learn from, and those to judge by: every so many of all, so that they are of one kind."""
    step = max(2, -(-len(windows) // _HELD_OUT))
    judged = range(step - 1, len(windows), step)
    return [window for number, window in enumerate(windows) if number not in judged], [windows[at] for at in judged]


def order_of(step: int, count: int, seed: int) -> int:
    """Return the window of a step; the order within an epoch depends on the seed and the epoch alone."""
    epoch, place = divmod(step, count)
    return int(np.random.default_rng((seed, epoch)).permutation(count)[place])

"""How far a calibrated bundle is from its checkpoint, on windows of the text that were held back.

Shapes: T tokens of a window, E hidden size, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.layer_graphs import LayerGraph, LayerGraphs
from skipstone.devices import open_device
from skipstone.evaluate import log_softmax, score
from skipstone.exporters import ExportPlan
from skipstone.runtime.engine import Model

__all__ = ["HeldBack", "quality_line"]

Floats: TypeAlias = NDArray[np.float32]
KL_WARNING: Final = 0.1


class HeldBack:
    """Judges a finished bundle: a check of an export, which refuses nothing. `line` says what was found."""

    def __init__(self, plan: ExportPlan, token_ids: NDArray[np.int64], states: Floats) -> None:
        """`token_ids` [B, T] are the windows, `states` [B, T, E] the original's before its final norm."""
        self._plan, self._token_ids, self._states = plan, token_ids, states
        self.line = ""

    def __call__(self, folder: Path) -> Mapping[str, object]:
        """Return KL(original || bundle) in nats per token, and the share of equal choices."""
        model = Model.open(folder, cache="fp32")
        nats, same = list[NDArray[np.float64]](), list[NDArray[np.bool_]]()
        with tempfile.TemporaryDirectory() as work, LayerGraphs(self._plan, open_device(), Path(work)).head() as head:
            for token_ids, states in zip(self._token_ids, self._states, strict=True):
                _judge(model, token_ids, head, states, nats, same)
        kl, agreement = float(np.concatenate(nats).mean()), float(np.concatenate(same).mean())
        self.line = quality_line(kl, agreement, num_tokens=sum(map(len, nats)))
        return {"held_back": {"kl": kl, "agreement": agreement, "num_tokens": sum(map(len, nats))}}


def _judge(
    model: Model,
    token_ids: NDArray[np.int64],
    head: LayerGraph,
    states: Floats,
    nats: list[NDArray[np.float64]],
    same: list[NDArray[np.bool_]],
) -> None:
    """Add what the rows of one window tell, in pieces, since logits are wide."""
    start = 0
    for targets, logits in score(model, token_ids.tolist()):
        wanted = log_softmax(head.logits(states[None, start : start + len(targets)]))
        found = log_softmax(logits)
        nats.append((np.exp(wanted) * (wanted - found)).sum(axis=1))
        same.append(wanted.argmax(axis=1) == found.argmax(axis=1))
        start += len(targets)


def quality_line(kl: float, agreement: float, *, num_tokens: int) -> str:
    """Return what is said of a bundle, with a warning where it is far from its checkpoint."""
    found = f"KL {kl:.4f} on {num_tokens} tokens held back, {100 * agreement:.1f} % of top choices kept"
    if kl <= KL_WARNING:
        return f"quality: {found}"
    return f"quality: {found}; warning: above {KL_WARNING}, texts will differ, try more bits or --precision int8"

"""How far answers change where the graphs for prompts read the prompt: a check of an export, which refuses nothing.

Shapes: T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import AUTO, Documents, Windows
from skipstone.evaluate import divergences, log_softmax
from skipstone.exporters import ExportPlan
from skipstone.runtime.engine import MOST_PREFILL_KL, Draft, Model

__all__ = ["PrefillCheck"]

_WINDOWS: Final = 8
_ANSWER: Final = 0.25  # of a window; the tokens before are its prompt


class PrefillCheck:
    """Judges a bundle by answers of the packaged text; `verdict` says what was found, in one line."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self.verdict = ""

    def __call__(self, folder: Path) -> Mapping[str, object]:
        """Return KL(as it is || behind a prompt read apart) in nats a token of answers, and how many choices stay."""
        model = Model.open(folder, prefill="int8")
        windows = Windows.of(self._plan, Documents.read(AUTO), num_windows=_WINDOWS)
        judged = [_judge(model, window) for window in windows.calibrate.tolist()]
        nats, same = (np.concatenate(values) for values in zip(*judged, strict=True))
        kl, agreement = float(nats.mean()), float(same.mean())
        use = "by default" if kl <= MOST_PREFILL_KL else f"above {MOST_PREFILL_KL}: only with --prefill int8"
        self.verdict = (
            f"prompts in int8: KL of answers {kl:.4f}, {100 * agreement:.1f} % of top choices kept; read so {use}"
        )
        return {"prefill": {"kl": kl, "agreement": agreement, "num_tokens": nats.size}}


def _judge(model: Model, window: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the nats of each token of an answer [T], and whether its likeliest token stays [T]."""
    size = max(1, int(len(window) * (1 - _ANSWER)))
    prompt, answer = list(window[:size]), list(window[size:])
    wanted, found = (_answer(model, prompt, answer, apart=apart) for apart in (False, True))
    return divergences(wanted, found), wanted.argmax(axis=1) == found.argmax(axis=1)


def _answer(model: Model, prompt: list[int], answer: list[int], *, apart: bool) -> NDArray[np.float64]:
    """Return log probabilities [T, V] of an answer behind a prompt, which the graphs for prompts read or do not."""
    sequence = model.new_sequence(context_length=len(prompt) + len(answer), exact=None)
    sequence.append(prompt)
    if apart:
        sequence.begin()
    return log_softmax(sequence.extend(Draft.chain(answer, source="text")))

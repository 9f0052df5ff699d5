"""From which entropy on a model is more often wrong than right, on a user's text: the threshold of AdaDec.

Source: AdaDec (He et al., 2025): logistic regression of "the token of the text is not the likeliest" on the entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate.perplexity import score, scored_windows
from skipstone.option_types import checks_arguments
from skipstone.runtime.engine import Model
from skipstone.runtime.sampling import entropy_nats

__all__ = ["entropy_border", "logistic_border"]

MOST_TOKENS = 8192
LEAST_TOKENS = 100
MOST_NATS = 16.0


@checks_arguments
def entropy_border(
    model: Model,
    texts: SequenceOf[str],
    *,
    max_tokens: int = MOST_TOKENS,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> float:
    """Return the entropy in nats at which the likeliest token is as often wrong as right, between 0 and 16.

    `on_progress` gets the tokens read. Raises: ConfigError when the texts hold fewer than 100 tokens.
    """
    entropies, wrong = list[float](), list[bool]()
    for window in scored_windows(model.manifest, model.tokenizer, texts, max_tokens=max_tokens):
        for targets, logits in score(model, window):
            entropies += entropy_nats(logits.astype(np.float64)).tolist()
            wrong += (logits.argmax(axis=1) != targets).tolist()
            on_progress(len(targets))
    if len(wrong) < LEAST_TOKENS:
        raise ConfigError(f"the texts hold {len(wrong)} tokens to judge; give at least {LEAST_TOKENS}")
    return logistic_border(np.asarray(entropies), np.asarray(wrong))


def logistic_border(entropies: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """Return where the fitted chance to be wrong is one half; 0 or 16 where entropies do not tell.

    Newton's method on two coefficients, with a little weight decay, so that separable data have an end too.
    """
    inputs = np.stack([np.ones(len(entropies)), entropies], axis=1)
    weights, decay = np.zeros(2), 1e-3 * np.eye(2)
    for _ in range(50):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (wrong - chances) - decay @ weights
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + decay
        change = np.linalg.solve(curvature, gradient)
        weights += np.clip(change, -5, 5)
        if np.abs(change).max() < 1e-8:
            break
    offset, slope = weights
    if slope <= 0:
        return 0.0 if wrong.mean() > 0.5 else MOST_NATS
    return float(np.clip(-offset / slope, 0.0, MOST_NATS))

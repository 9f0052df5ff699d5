"""How far the dial of a method may be turned on a model: measured on texts that the method writes itself."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from itertools import pairwise

import numpy as np

from skipstone.errors import ConfigError
from skipstone.evaluate.judged_texts import NEW_TOKENS, judged_text, prompts_of
from skipstone.option_types import checks_arguments
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import AGREEMENTS, ERROR_RATE, Calibration, DialFinding, Method

__all__ = ["LEAST_TOKENS", "MOST_TOKENS", "calibrate_dial", "design_effect", "settings_to_test"]

LEAST_TOKENS = 2000
MOST_TOKENS = 4096


def settings_to_test(method: Method) -> tuple[float, ...]:
    """Return the settings that are tested, the strictest first: those of the method, and between each two their mean.

    The plain end is none of them: it is known.
    """
    means = {one: (one + other) / 2 for one, other in pairwise(method.dial.settings)}
    finer = [setting for one in method.dial.settings for setting in (one, means.get(one)) if setting is not None]
    return tuple(finer[1:])


def design_effect(wrong: SequenceOf[int]) -> float:
    """Return by how much the wrong tokens of texts vary more than if they came by chance; 1 where it cannot be told.

    `wrong` is how many of 64 tokens, text by text. Source: Kish, 1965.
    """
    shares = np.asarray(wrong) / NEW_TOKENS
    rate = float(shares.mean())
    return float(shares.var(ddof=1)) / (rate * (1 - rate) / NEW_TOKENS) if 0 < rate < 1 else 1.0


@checks_arguments
def calibrate_dial(
    model: Model,
    method: Method,
    texts: SequenceOf[str],
    *,
    max_tokens: int = MOST_TOKENS,
    error_rate: float = ERROR_RATE,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Calibration:
    """Return how often tokens are not the full model's choice, at settings from the strictest on.

    At each, up to `max_tokens` are written behind prompts spread over `texts`, and judged by the full model. It ends at
    the first setting that keeps no agreement that may be asked for. `on_progress` gets the share that is done.
    Raises: ConfigError for `exit`, whose exits are calibrated instead, for a model that lacks what the method needs,
    and when the texts are too short.
    """
    if method.dial.is_agreement:
        raise ConfigError(
            f"the dial of {method.name} is the agreement; calibrate its exits with "
            "`skipstone tune exits BUNDLE --text FILE`"
        )
    if max_tokens < LEAST_TOKENS:
        raise ConfigError(f"a calibration wants at least {LEAST_TOKENS} tokens at each setting, got {max_tokens}")
    prompts = prompts_of(model, texts, most=-(-max_tokens // NEW_TOKENS))
    num_tokens, settings = len(prompts) * NEW_TOKENS, settings_to_test(method)
    if num_tokens < LEAST_TOKENS:
        raise ConfigError(
            f"the text gives prompts for {num_tokens} tokens; a calibration wants at least {LEAST_TOKENS}, better "
            f"{MOST_TOKENS}: give more or longer files"
        )
    known = Calibration(method=method.name, num_tokens=num_tokens, error_rate=error_rate, tested=())
    for number, setting in enumerate(settings):
        wrong: list[int] = []  # by text
        for prompt in prompts:
            wrong.append(int((~judged_text(model, method, setting, prompt).agrees).sum()))
            on_progress((number + len(wrong) / len(prompts)) / len(settings))
        known = replace(known, tested=(*known.tested, DialFinding(setting, sum(wrong), design_effect(wrong))))
        if not known.keeps(known.tested[-1], AGREEMENTS[0]):
            break
    return known

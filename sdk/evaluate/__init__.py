"""Quality, measured: perplexity, methods with a dial, stop decisions, choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.evaluate.calibrate import calibrate_dial, design_effect, settings_to_test
    from skipstone.evaluate.choices import DIALS, ChoiceCase, ChoiceQuality, evaluate_choices, read_cases
    from skipstone.evaluate.exits import SETTINGS, ExitQuality, evaluate_exits
    from skipstone.evaluate.judged_texts import NEW_TOKENS, PROMPT_TOKENS, judged_text, new_text, prompts_of, steps_of
    from skipstone.evaluate.methods import MOST_TOKENS, DialQuality, evaluate_dial
    from skipstone.evaluate.perplexity import EvalResult, evaluate, log_softmax, score
    from skipstone.evaluate.stops import STOP_SETTINGS, StopQuality, evaluate_stop

__all__ = [
    "DIALS",
    "MOST_TOKENS",
    "NEW_TOKENS",
    "PROMPT_TOKENS",
    "SETTINGS",
    "STOP_SETTINGS",
    "ChoiceCase",
    "ChoiceQuality",
    "DialQuality",
    "EvalResult",
    "ExitQuality",
    "StopQuality",
    "calibrate_dial",
    "design_effect",
    "evaluate",
    "evaluate_choices",
    "evaluate_dial",
    "evaluate_exits",
    "evaluate_stop",
    "judged_text",
    "log_softmax",
    "new_text",
    "prompts_of",
    "read_cases",
    "score",
    "settings_to_test",
    "steps_of",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ChoiceCase": "skipstone.evaluate.choices",
        "ChoiceQuality": "skipstone.evaluate.choices",
        "DIALS": "skipstone.evaluate.choices",
        "DialQuality": "skipstone.evaluate.methods",
        "EvalResult": "skipstone.evaluate.perplexity",
        "ExitQuality": "skipstone.evaluate.exits",
        "MOST_TOKENS": "skipstone.evaluate.methods",
        "NEW_TOKENS": "skipstone.evaluate.judged_texts",
        "PROMPT_TOKENS": "skipstone.evaluate.judged_texts",
        "SETTINGS": "skipstone.evaluate.exits",
        "STOP_SETTINGS": "skipstone.evaluate.stops",
        "StopQuality": "skipstone.evaluate.stops",
        "calibrate_dial": "skipstone.evaluate.calibrate",
        "design_effect": "skipstone.evaluate.calibrate",
        "evaluate": "skipstone.evaluate.perplexity",
        "evaluate_choices": "skipstone.evaluate.choices",
        "evaluate_dial": "skipstone.evaluate.methods",
        "evaluate_exits": "skipstone.evaluate.exits",
        "evaluate_stop": "skipstone.evaluate.stops",
        "judged_text": "skipstone.evaluate.judged_texts",
        "log_softmax": "skipstone.evaluate.perplexity",
        "new_text": "skipstone.evaluate.judged_texts",
        "prompts_of": "skipstone.evaluate.judged_texts",
        "read_cases": "skipstone.evaluate.choices",
        "score": "skipstone.evaluate.perplexity",
        "settings_to_test": "skipstone.evaluate.calibrate",
        "steps_of": "skipstone.evaluate.judged_texts",
    },
)

"""Quality, measured: perplexity, methods with a dial, stop decisions, choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.evaluate.calibrate import calibrate_dial, design_effect, settings_to_test
    from skipstone.evaluate.choices import DIALS, ChoiceCase, ChoiceQuality, evaluate_choices, read_cases
    from skipstone.evaluate.comparison import DEPTHS, ComparedModel, compare_quality, compare_speed, speed_steps
    from skipstone.evaluate.exits import SETTINGS, ExitQuality, evaluate_exits
    from skipstone.evaluate.gguf_model import is_gguf
    from skipstone.evaluate.judged_texts import NEW_TOKENS, PROMPT_TOKENS, judged_text, new_text, prompts_of, steps_of
    from skipstone.evaluate.log_probs import divergences, log_softmax
    from skipstone.evaluate.methods import MOST_TOKENS, DialQuality, evaluate_dial
    from skipstone.evaluate.perplexity import EvalResult, evaluate, score, scored_windows
    from skipstone.evaluate.stops import STOP_SETTINGS, StopQuality, evaluate_stop
    from skipstone.evaluate.tally import ModelQuality, Tally

__all__ = [
    "DEPTHS",
    "DIALS",
    "MOST_TOKENS",
    "NEW_TOKENS",
    "PROMPT_TOKENS",
    "SETTINGS",
    "STOP_SETTINGS",
    "ChoiceCase",
    "ChoiceQuality",
    "ComparedModel",
    "DialQuality",
    "EvalResult",
    "ExitQuality",
    "ModelQuality",
    "StopQuality",
    "Tally",
    "calibrate_dial",
    "compare_quality",
    "compare_speed",
    "design_effect",
    "divergences",
    "evaluate",
    "evaluate_choices",
    "evaluate_dial",
    "evaluate_exits",
    "evaluate_stop",
    "is_gguf",
    "judged_text",
    "log_softmax",
    "new_text",
    "prompts_of",
    "read_cases",
    "score",
    "scored_windows",
    "settings_to_test",
    "speed_steps",
    "steps_of",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ChoiceCase": "skipstone.evaluate.choices",
        "ChoiceQuality": "skipstone.evaluate.choices",
        "ComparedModel": "skipstone.evaluate.comparison",
        "DEPTHS": "skipstone.evaluate.comparison",
        "DIALS": "skipstone.evaluate.choices",
        "DialQuality": "skipstone.evaluate.methods",
        "EvalResult": "skipstone.evaluate.perplexity",
        "ExitQuality": "skipstone.evaluate.exits",
        "MOST_TOKENS": "skipstone.evaluate.methods",
        "ModelQuality": "skipstone.evaluate.tally",
        "NEW_TOKENS": "skipstone.evaluate.judged_texts",
        "PROMPT_TOKENS": "skipstone.evaluate.judged_texts",
        "SETTINGS": "skipstone.evaluate.exits",
        "STOP_SETTINGS": "skipstone.evaluate.stops",
        "StopQuality": "skipstone.evaluate.stops",
        "Tally": "skipstone.evaluate.tally",
        "calibrate_dial": "skipstone.evaluate.calibrate",
        "compare_quality": "skipstone.evaluate.comparison",
        "compare_speed": "skipstone.evaluate.comparison",
        "design_effect": "skipstone.evaluate.calibrate",
        "divergences": "skipstone.evaluate.log_probs",
        "evaluate": "skipstone.evaluate.perplexity",
        "evaluate_choices": "skipstone.evaluate.choices",
        "evaluate_dial": "skipstone.evaluate.methods",
        "evaluate_exits": "skipstone.evaluate.exits",
        "evaluate_stop": "skipstone.evaluate.stops",
        "is_gguf": "skipstone.evaluate.gguf_model",
        "judged_text": "skipstone.evaluate.judged_texts",
        "log_softmax": "skipstone.evaluate.log_probs",
        "new_text": "skipstone.evaluate.judged_texts",
        "prompts_of": "skipstone.evaluate.judged_texts",
        "read_cases": "skipstone.evaluate.choices",
        "score": "skipstone.evaluate.perplexity",
        "scored_windows": "skipstone.evaluate.perplexity",
        "settings_to_test": "skipstone.evaluate.calibrate",
        "speed_steps": "skipstone.evaluate.comparison",
        "steps_of": "skipstone.evaluate.judged_texts",
    },
)

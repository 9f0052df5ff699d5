"""Options as other programs spell them: taken where they mean the same, else answered with what to write here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

from skipstone.errors import ConfigError

__all__ = ["ALIASES", "option_here", "spelled_here", "unknown_option"]

ALIASES: Final[Mapping[str, str]] = {
    "max_tokens": "max_new_tokens",  # mlx-lm, OpenAI, vLLM, llama-cpp-python
    "max_completion_tokens": "max_new_tokens",  # OpenAI
    "num_predict": "max_new_tokens",  # ollama
    "n_predict": "max_new_tokens",  # llama.cpp
    "min_tokens": "min_new_tokens",  # vLLM
    "temp": "temperature",  # mlx-lm, llama.cpp
    "typical_p": "typical",  # transformers, llama.cpp
    "no_repeat_ngram_size": "no_repeat_ngram",  # transformers
    "suppress_tokens": "banned_ids",  # transformers
    "stop_strings": "stop",  # transformers
    "top_logprobs": "logprobs",  # OpenAI
}
"""Another's spelling -> ours, where both mean the same for every value."""

ADVICE: Final[Mapping[str, str]] = {
    "max_length": "it counts the prompt too; give max_new_tokens, or context_length for all of a text",
    "do_sample": "give temperature=0 for the likeliest token, or one above 0 to draw",
    "num_return_sequences": "model.samples(prompt, count) makes several texts of a prompt",
    "n": "model.samples(prompt, count) makes several texts of a prompt",
    "num_beams": 'model.suggest(prompt, method="beam") searches with beams',
    "stream": "model.stream(prompt) gives a text piece by piece, model.chat(messages, stream=True) an answer",
    "streamer": "model.stream(prompt) gives a text piece by piece",
    "repeat_penalty": "it looks at the last tokens only; repetition_penalty at prompt and answer",
    "repetition_context_size": "repetition_penalty looks at prompt and answer as a whole",
    "repeat_last_n": "repetition_penalty looks at prompt and answer as a whole",
    "logits_processor": "processors=[function] takes functions of (token_ids [T], logits [V])",
    "logits_processors": "processors=[function] takes functions of (token_ids [T], logits [V])",
    "n_ctx": "context_length is that of a text",
    "num_ctx": "context_length is that of a text",
    "max_kv_size": "context_length is that of a text",
    "eos_token_id": 'the model\'s own end texts; stop="..." adds texts and special tokens by their names',
    "stopping_criteria": "leave the loop over model.stream(prompt), or give cancel=skipstone.Cancellation()",
    "assistant_model": "skipstone.load(bundle, draft_model=...) takes a smaller bundle that guesses",
    "prompt_lookup_num_tokens": 'decode="ngram" guesses from the prompt',
    "messages": "model.chat(messages) answers messages",
}
"""What others have and means something else here, or stands elsewhere -> what to do."""

OF_CALLS: Final = ("context_length", "prompt_cache", "cancel", "on_prompt", "on_measuring")
"""What calls take beside the options of a text."""


def spelled_here(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that they have here. Raises: ConfigError for one that is given under two."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in options.items():
        own = ALIASES.get(name, name)
        if value is None and own in found:
            continue
        if own in found and found[own][1] is not None:
            raise ConfigError(f"{found[own][0]} and {name} are one option; give one of them")
        found[own] = name, value
    return {own: value for own, (_, value) in found.items()}


def option_here(name: str) -> str:
    """Return an option of the command line, without its dashes, by the name that it has here."""
    own = ALIASES.get(name.replace("-", "_"))
    return name if own is None else own.replace("_", "-")


def unknown_option(names: Collection[str], known: Collection[str]) -> ConfigError:
    """Return the error for options that are not known: what to do, or the nearest, or all that are."""
    name, *others = sorted(names)
    if not others and name in ADVICE:
        return ConfigError(f"unknown option {name}: {ADVICE[name]}")
    spellings = {
        **{own: own for own in (*known, *OF_CALLS)},
        **{name: own for name, own in ALIASES.items() if own in known},
    }
    nearest = [spellings[match] for name in names for match in get_close_matches(name, spellings, n=1)]
    if nearest and len(nearest) == len(names):
        return ConfigError(
            f"unknown option {', '.join(sorted(names))}; did you mean {', '.join(dict.fromkeys(nearest))}?"
        )
    return ConfigError(f"unknown option {', '.join(sorted(names))}; known are {', '.join(sorted(known))}")

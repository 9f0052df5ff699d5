"""What completions are worth when they end where the model gets unsure, at several settings: figures of suggestions."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions, stream
from skipstone.runtime.text import windows_of

__all__ = ["STOP_SETTINGS", "StopQuality", "evaluate_stop"]

STOP_SETTINGS = (0.0, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopQuality:
    """Completions of one `stop_below`. Those of no token are `suppressed`, the others shown; a stop token is none.

    Of the shown ones: `tokens` is their mean length, `precision` the share that is, token by token, how the text goes
    on; both 0 where none is shown. Of all: `saved` is the share of the tokens without a stop decision that were not
    made, `seconds` the time of a completion with its prompt, `tokens_per_s` the speed from the first token on.
    """

    stop_below: float
    suppressed: float
    tokens: float
    precision: float
    saved: float
    seconds: float
    tokens_per_s: float


@checks_arguments
def evaluate_stop(
    model: Model,
    texts: SequenceOf[str],
    settings: SequenceOf[float] = STOP_SETTINGS,
    *,
    num_prompts: int = 100,
    prompt_tokens: int = 64,
    new_tokens: int = 16,
    decode: str = "plain",
    on_progress: Callable[[int], None] = lambda num_prompts: None,
) -> list[StopQuality]:
    """Return figures of greedy completions of prompts cut from texts, evenly, that do not overlap, for each setting.

    `on_progress` gets the prompts done. Raises: ConfigError for texts too short for one prompt and what follows it.
    """
    if min(num_prompts, prompt_tokens, new_tokens) < 1:
        raise ConfigError("num_prompts, prompt_tokens and new_tokens must be at least 1")
    windows = _windows(model, texts, num_prompts, prompt_tokens + new_tokens)
    chosen = [
        GenerationOptions(max_new_tokens=new_tokens, decode=decode, stop_below=setting) for setting in (0.0, *settings)
    ]
    tallies = [_Tally() for _ in chosen]
    for options in chosen:  # calls are bound when they first run
        _complete(model, windows[0][:prompt_tokens], options)
    for window in windows:
        for options, tally in zip(chosen, tallies, strict=True):
            made, seconds = _complete(model, window[:prompt_tokens], options)
            tally.add(made, window[prompt_tokens:], model.manifest.stop_ids, seconds=seconds)
        on_progress(1)
    return [tally.quality(setting, tallies[0]) for setting, tally in zip(settings, tallies[1:], strict=True)]


def _windows(model: Model, texts: SequenceOf[str], most: int, size: int) -> list[list[int]]:
    """Return at most so many pieces of `size` tokens, spread evenly over the texts."""
    if size > model.manifest.context_length:
        raise ConfigError(f"prompt and completion have {size} tokens, the context {model.manifest.context_length}")
    windows = windows_of(model.tokenizer, texts, size, least=size)
    if not windows:
        raise ConfigError(f"the texts are too short; one of at least {size} tokens is wanted")
    return [windows[place] for place in np.linspace(0, len(windows) - 1, min(most, len(windows)), dtype=int)]


def _complete(model: Model, prompt: SequenceOf[int], options: GenerationOptions) -> tuple[Generation, float]:
    """Return a completion and its seconds."""
    start, sequence = perf_counter(), model.new_sequence()
    sequence.append(prompt)
    made = Generation.join(list(stream(model, sequence, options)))
    return made, perf_counter() - start


@dataclass(slots=True)
class _Tally:
    """What one setting did so far, a number for each completion."""

    num_made: list[int] = field(default_factory=list)
    num_shown: list[int] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)

    def add(self, made: Generation, coming: SequenceOf[int], stop_ids: SequenceOf[int], *, seconds: float) -> None:
        shown = [token_id for token_id in made.token_ids if token_id not in stop_ids]
        self.num_made.append(len(made.token_ids))
        self.num_shown.append(len(shown))
        self.is_right.append(bool(shown) and shown == [*coming[: len(shown)]])
        self.seconds.append(seconds)
        self.decode_s.append(seconds - made.stats.ttft_s)

    def quality(self, setting: float, without: _Tally) -> StopQuality:
        num_shown = sum(count > 0 for count in self.num_shown)
        num_decoded = sum(max(count - 1, 0) for count in self.num_made)
        return StopQuality(
            stop_below=float(setting),
            suppressed=1 - num_shown / len(self.num_shown),
            tokens=sum(self.num_shown) / max(num_shown, 1),
            precision=sum(self.is_right) / max(num_shown, 1),
            saved=1 - sum(self.num_made) / sum(without.num_made),
            seconds=float(np.mean(self.seconds)),
            tokens_per_s=num_decoded / sum(self.decode_s) if num_decoded else 0.0,
        )

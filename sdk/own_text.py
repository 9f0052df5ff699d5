"""Texts that a model writes itself behind pieces of given ones: what decoding really meets."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from skipstone.dial_texts import PROMPT_TOKENS, prompts_of
from skipstone.runtime.decode import decode
from skipstone.runtime.model import Model
from skipstone.runtime.planning.method import Method
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.verification import match

__all__ = ["PROMPT_TOKENS", "own_windows"]

NEW_TOKENS = 192
MOST_PROMPTS = 64


def own_windows(
    model: Model, texts: SequenceOf[str], *, on_progress: Callable[[int], None] = lambda num_tokens: None
) -> list[list[int]]:
    """Return windows of tokens: 64 of a text, and up to 192 that the model greedily writes behind them.

    At most 64 windows, spread evenly over the texts. `on_progress` gets the new tokens of each call. Stop tokens end
    nothing: exits are asked behind them too.
    Raises: ConfigError for a text shorter than one piece, and for a context too short.
    """
    sampler, windows = Sampler(greedy=True), []
    room = min(model.manifest.context_length, model.manifest.long_rope_from or model.manifest.context_length)
    for prompt in prompts_of(model, texts, most=MOST_PROMPTS):
        sequence = model.new_sequence(context_length=min(room, len(prompt) + NEW_TOKENS))
        sequence.append(prompt)
        drafter = Method.parse("ngram").open(model, sequence, sampler)
        accept = match(sampler, sequence.token_ids)
        for step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=sequence.room, stop_ids=()):
            on_progress(len(step.token_ids))
        windows.append([*sequence.token_ids])
    return windows

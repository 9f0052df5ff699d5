"""How to choose tokens, in the words of the command line and the API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from skipstone.errors import ConfigError
from skipstone.option_types import check_fields
from skipstone.runtime.sampling.own_steps import OwnStep, OwnSteps
from skipstone.runtime.sampling.penalties import (
    BannedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from skipstone.runtime.sampling.processor import LogitProcessor, require
from skipstone.runtime.sampling.truncation import LocallyTypical, MinP, Temperature, TopH, TopK, TopP

__all__ = ["NEEDS_TEMPERATURE", "SamplingOptions"]

NEEDS_TEMPERATURE = {"top_k": 0, "typical": 1.0, "top_p": 1.0, "min_p": 0.0, "top_h": None}
"""Options that cannot change a greedy choice, with the value at which they are off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen from the logits; the default is greedy, and every other step is off.

    `temperature` 0 is greedy. Presence and frequency penalty count the answer, `repetition_penalty` and
    `no_repeat_ngram` the prompt too. `seed` fixes the text: where it is None one is drawn
    for each text. A greedy text has no chance in it and ignores the seed.

    `processors` are functions of your own, `function(token_ids, logits) -> logits`, called one after the other behind
    penalties and bans and before the temperature. `token_ids` [T], int64 and read-only, are all tokens before the one
    to choose: the prompt, with what a chat template writes, and the answer so far. `logits` [V], float32, are a copy:
    change them and return them, or return new ones; -inf bans a token, -inf was banned before. A function must depend
    on its arguments alone: drafts are judged by it as well, at places that the text may never reach, several times, and
    from other threads. Then every method gives the text of plain decoding.
    Raises: ConfigError for a value out of range, and for a truncation at temperature 0.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    top_h: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    processors: tuple[OwnStep, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "at least 0 and below 2**64")
        # The steps check their own values.
        self.steps(stop_ids=(), num_prompt_tokens=0)
        if self.greedy:
            for name, off in NEEDS_TEMPERATURE.items():
                if getattr(self, name) != off:
                    raise ConfigError(
                        f"{name} {getattr(self, name)} changes nothing at temperature 0, which always takes the most "
                        f"likely token; set --temperature above 0 or leave {name} out"
                    )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without chance."""
        return self.temperature == 0

    def require_vocabulary(self, vocab_size: int) -> None:
        """Raise ConfigError for tokens that a model of so many lacks, and where it may say none of its own."""
        for name in ("logit_bias", "banned_ids"):
            last = max(getattr(self, name), default=0)
            if last >= vocab_size:
                raise ConfigError(f"{name} names token {last}, but the last token of the model is {vocab_size - 1}")
        if len(set(self.banned_ids)) == vocab_size:
            raise ConfigError(f"banned_ids bans every token of the model, all {vocab_size}; leave one")

    def steps(self, *, stop_ids: Collection[int], num_prompt_tokens: int) -> tuple[LogitProcessor, ...]:
        """Return the steps that are on, for one text, in the order in which they run."""
        steps: tuple[tuple[Any, Any, Callable[[Any], LogitProcessor]], ...] = (
            (self.logit_bias, {}, LogitBias),
            (self.banned_ids, (), BannedTokens),
            (self.min_new_tokens, 0, lambda value: MinNewTokens(value, stop_ids, num_prompt_tokens)),
            (self.repetition_penalty, 1.0, RepetitionPenalty),
            (self.presence_penalty, 0.0, lambda value: PresencePenalty(value, num_prompt_tokens)),
            (self.frequency_penalty, 0.0, lambda value: FrequencyPenalty(value, num_prompt_tokens)),
            (self.no_repeat_ngram, 0, NoRepeatNgram),
            (self.processors, (), OwnSteps),
            (self.temperature, 0.0, Temperature),
            (self.top_k, 0, TopK),
            (self.typical, 1.0, LocallyTypical),
            (self.top_p, 1.0, TopP),
            (self.min_p, 0.0, MinP),
            (self.top_h, None, TopH),
        )
        return tuple(make(value) for value, off, make in steps if value != off)

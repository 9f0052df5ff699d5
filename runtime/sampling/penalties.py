"""Likes and dislikes: steps that move the logits of single tokens, for what they are or for what was said before.

`history` is prompt and answer; the steps that look at the answer alone are told the length of the prompt once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.sampling.processor import require

__all__ = [
    "BannedTokens",
    "FrequencyPenalty",
    "LogitBias",
    "MinNewTokens",
    "NoRepeatNgram",
    "PresencePenalty",
    "RepetitionPenalty",
]


LARGEST, LEAST_FACTOR = 1e30, 1e-6
"""What keeps a logit finite in single precision, however often it is moved."""


class LogitBias:
    """Add a number to the logits of some tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        finite = all(-LARGEST <= value <= LARGEST for value in bias.values())
        require(finite, "logit_bias", dict(bias), "token ids with finite numbers; banned_ids bans a token")
        self._ids = _token_ids(bias, "logit_bias")
        self._values = np.array(list(bias.values()), dtype=np.float32)

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        _require_in_vocabulary(self._ids, logits, "logit_bias")
        logits[self._ids] += self._values
        return logits


class BannedTokens:
    """Never choose these tokens."""

    def __init__(self, banned_ids: Collection[int]) -> None:
        self._ids = _token_ids(banned_ids, "banned_ids")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        _require_in_vocabulary(self._ids, logits, "banned_ids")
        logits[self._ids] = -np.inf
        return logits


class MinNewTokens:
    """Choose no stop token before the answer has `min_new_tokens` tokens."""

    def __init__(self, min_new_tokens: int, stop_ids: Collection[int], num_prompt_tokens: int) -> None:
        require(min_new_tokens >= 0, "min_new_tokens", min_new_tokens, "at least 0")
        self._ids = _token_ids(stop_ids, "stop_ids")
        self._min_length = num_prompt_tokens + min_new_tokens

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        _require_in_vocabulary(self._ids, logits, "stop_ids")
        if len(history) < self._min_length:
            logits[self._ids] = -np.inf
        return logits


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Make every token of the prompt and the answer less likely: positive logits are divided, negative multiplied.

    Below 1 it makes them more likely. Source: CTRL (Keskar et al., 2019), section 4.1.
    """

    penalty: float

    def __post_init__(self) -> None:
        holds = LEAST_FACTOR <= self.penalty <= LARGEST
        require(holds, "repetition_penalty", self.penalty, f"above 0, at least {LEAST_FACTOR:f}, where 1 is off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        ids = np.array(list(set(history)), dtype=np.int64)
        seen, penalty = logits[ids], np.float32(self.penalty)
        logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        return logits


@dataclass(frozen=True, slots=True)
class PresencePenalty:
    """Subtract the penalty from every token that the answer has, once. OpenAI's meaning: the prompt does not count."""

    penalty: float
    num_prompt_tokens: int

    def __post_init__(self) -> None:
        require(-LARGEST <= self.penalty <= LARGEST, "presence_penalty", self.penalty, "a finite number")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        ids = np.array(list(set(history[self.num_prompt_tokens :])), dtype=np.int64)
        logits[ids] -= np.float32(self.penalty)
        return logits


@dataclass(frozen=True, slots=True)
class FrequencyPenalty:
    """Subtract the penalty from every token once for each time that the answer has it. The prompt does not count."""

    penalty: float
    num_prompt_tokens: int

    def __post_init__(self) -> None:
        require(-LARGEST <= self.penalty <= LARGEST, "frequency_penalty", self.penalty, "a finite number")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        answer = np.array(history[self.num_prompt_tokens :], dtype=np.int64)
        ids, counts = np.unique(answer, return_counts=True)
        logits[ids] -= np.float32(self.penalty) * counts.astype(np.float32)
        return logits


@dataclass(frozen=True, slots=True)
class NoRepeatNgram:
    """Ban every token that would complete a run of `size` tokens which stands in the prompt or the answer already."""

    size: int

    def __post_init__(self) -> None:
        require(self.size >= 1, "no_repeat_ngram", self.size, "at least 1, or 0 for off")

    def __call__(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        num_runs = len(history) - self.size + 1
        if num_runs < 1:
            return logits
        token_ids = np.array(history, dtype=np.int64)
        matches = np.ones(num_runs, dtype=np.bool_)
        for offset in range(self.size - 1):
            matches &= token_ids[offset : offset + num_runs] == token_ids[num_runs + offset]
        logits[token_ids[self.size - 1 :][matches]] = -np.inf
        return logits


def _token_ids(ids: Collection[int], option: str) -> NDArray[np.int64]:
    require(all(0 <= token_id < 2**31 for token_id in ids), option, list(ids), "token ids, which are at least 0")
    return np.array(list(ids), dtype=np.int64)


def _require_in_vocabulary(ids: NDArray[np.int64], logits: NDArray[np.float32], option: str) -> None:
    if ids.max(initial=0) >= len(logits):
        raise ConfigError(f"{option} names token {ids.max()}, but the last token of the model is {len(logits) - 1}")

"""From logits to a token: penalties, truncation, and a draw whose noise is keyed by seed and position."""

from skipstone.runtime.sampling.logprobs import logprob_of, top_logprobs
from skipstone.runtime.sampling.noise import gumbel
from skipstone.runtime.sampling.options import SamplingOptions
from skipstone.runtime.sampling.penalties import (
    BannedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from skipstone.runtime.sampling.processor import LogitProcessor
from skipstone.runtime.sampling.sampler import Sampler
from skipstone.runtime.sampling.truncation import LocallyTypical, MinP, Temperature, TopH, TopK, TopP

__all__ = [
    "BannedTokens",
    "FrequencyPenalty",
    "LocallyTypical",
    "LogitBias",
    "LogitProcessor",
    "MinNewTokens",
    "MinP",
    "NoRepeatNgram",
    "PresencePenalty",
    "RepetitionPenalty",
    "Sampler",
    "SamplingOptions",
    "Temperature",
    "TopH",
    "TopK",
    "TopP",
    "gumbel",
    "logprob_of",
    "top_logprobs",
]

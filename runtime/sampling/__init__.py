"""From logits to a token: penalties, truncation, and a draw whose noise is keyed by seed and position."""

from __future__ import annotations

from skipstone.runtime.sampling.confidence import (
    CONFIDENCES,
    SATURATION,
    confidence_named,
    entropy,
    entropy_nats,
    gap,
    saturation,
    top,
)
from skipstone.runtime.sampling.logprobs import logprob_of, relative_probabilities, top_logprobs
from skipstone.runtime.sampling.noise import draft_seed, gumbel, uniform
from skipstone.runtime.sampling.options import SamplingOptions
from skipstone.runtime.sampling.order import first_in_order
from skipstone.runtime.sampling.penalties import (
    BannedTokens,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from skipstone.runtime.sampling.picks import Drawn, Likeliest, Picker, Picks, Rule, picker_for
from skipstone.runtime.sampling.processor import LogitProcessor
from skipstone.runtime.sampling.recommended import recommended_sampling, sampling_from, seeded
from skipstone.runtime.sampling.sampler import Sampler
from skipstone.runtime.sampling.truncation import LocallyTypical, MinP, Temperature, TopH, TopK, TopP

__all__ = [
    "CONFIDENCES",
    "SATURATION",
    "BannedTokens",
    "Drawn",
    "FrequencyPenalty",
    "Likeliest",
    "LocallyTypical",
    "LogitBias",
    "LogitProcessor",
    "MinNewTokens",
    "MinP",
    "NoRepeatNgram",
    "Picker",
    "Picks",
    "PresencePenalty",
    "RepetitionPenalty",
    "Rule",
    "Sampler",
    "SamplingOptions",
    "Temperature",
    "TopH",
    "TopK",
    "TopP",
    "confidence_named",
    "draft_seed",
    "entropy",
    "entropy_nats",
    "first_in_order",
    "gap",
    "gumbel",
    "logprob_of",
    "picker_for",
    "recommended_sampling",
    "relative_probabilities",
    "sampling_from",
    "saturation",
    "seeded",
    "top",
    "top_logprobs",
    "uniform",
]

"""The loop that is greedy while the model is sure; where it is not, it looks ahead behind each of the likeliest tokens.

The token whose continuation is the likeliest comes: the mean log probability of itself and of what follows it greedily.
What was looked at behind it stays up to the next token at which the model is unsure: it would be written anyway.

Source: AdaDec (He et al., 2025).
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Sequence
from skipstone.runtime.methods.method import ApproximateContext, Dial, Method, Opened
from skipstone.runtime.methods.search.runs import Run, decode_in_runs, grow
from skipstone.runtime.sampling import Sampler, entropy_nats, first_in_order

__all__ = ["METHOD", "LookAhead", "open_adadec"]

SURE: Final = 16.0  # nats: more than the law of any vocabulary has


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAhead:
    """Writes the tokens of one text; `threshold` is the entropy in nats above which `width` tokens are compared.

    `steps` is how many tokens are looked at behind each.
    """

    sequence: Sequence
    sampler: Sampler
    threshold: float
    stop_ids: Collection[int]
    width: int = 3
    steps: int = 5

    def write(self, logits: NDArray[np.float32], text: SequenceOf[int]) -> Run:
        """Return the next token, and what was seen behind it while the model is sure."""
        row = logits[0]
        if self.is_sure(row) or self.sequence.room < self.steps:
            return Run([self.sampler.choose(row, text)], [row])
        candidates = first_in_order(-self.sampler.processed(row, text), self.width)
        runs = self.look_ahead(logits, text, [int(one) for one in candidates])
        best = max(runs, key=lambda run: run.mean_logprob)
        return best.first(self.num_sure(best))

    def is_sure(self, row: NDArray[np.float32]) -> bool:
        return float(entropy_nats(row[None])[0]) <= self.threshold

    def num_sure(self, run: Run) -> int:
        """Return how many tokens of a run stand: the first, and those behind it that come without a doubt."""
        unsure = (place for place, row in enumerate(run.logits) if place and not self.is_sure(row))
        return next(unsure, len(run.token_ids))

    def look_ahead(self, logits: NDArray[np.float32], text: SequenceOf[int], candidates: SequenceOf[int]) -> list[Run]:
        """Return a greedy run behind each candidate, to a stop token or `steps` tokens behind it."""
        runs = [Run([candidate], [logits[0]]) for candidate in candidates]
        grow(
            runs,
            sequence=self.sequence,
            logits=logits,
            choose=lambda run, row: self.sampler.choose(row, [*text, *run.token_ids]),
            has_ended=lambda run: run.token_ids[-1] in self.stop_ids,
            steps=self.steps,
        )
        return runs


def open_adadec(context: ApproximateContext) -> Opened:
    """Open a text; the dial is the entropy in nats above which it looks ahead."""
    looking = LookAhead(
        sequence=context.sequence, sampler=context.sampler, threshold=context.setting, stop_ids=context.stop_ids
    )
    steps = decode_in_runs(
        context.sequence,
        write=looking.write,
        num_layers=context.model.manifest.dimensions.num_layers,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    promise = f"adadec looks ahead above {context.setting:g} nats of entropy: agreement not calibrated"
    return Opened(steps=steps, promise="all tokens as the full model's" if context.setting == SURE else promise)


METHOD = Method(
    name="adadec",
    writes=open_adadec,
    dial=Dial(
        unit="the entropy in nats above which it looks ahead",
        least=0.0,
        most=SURE,
        plain=SURE,
        settings=(SURE, 4.0, 3.0, 2.0, 1.0),
    ),
    chance="refused",
    all_layers=True,
)

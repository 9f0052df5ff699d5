"""The loop that draws a token where the model is sure, and several beginnings of a sentence where it is not.

Each beginning goes on to a punctuation mark, and the one with the lowest perplexity stays: the less sure the model is,
the more are tried. Approximate: the law of the text leans to what the model finds likely.

Source: cautious next token prediction (Wang et al., 2025).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine import Sequence
from skipstone.runtime.methods.method import ApproximateContext, Dial, Method, Opened
from skipstone.runtime.methods.search.runs import Run, decode_in_runs, grow
from skipstone.runtime.sampling import Sampler, draft_seed, entropy_nats

__all__ = ["METHOD", "Trials", "ends_clause", "num_trials", "open_cautious"]

SURE, UNSURE = 0.01, 1.5  # entropies in nats: up to the one a token is drawn, from the other on the most are tried
LONGEST: Final = 20  # tokens of a trial behind its first
NOT_BETWEEN_CLAUSES: Final = frozenset("\"'#%&*@\\/")


def num_trials(entropy: float, most: float) -> int:
    """Return how many texts are tried at an entropy in nats: 1 where the model is sure, `most` where it is not."""
    share = min(max((entropy - SURE) / (UNSURE - SURE), 0.0), 1.0)
    return round(1 + (most - 1) * share)


def ends_clause(text: str) -> bool:
    """Return whether a token holds a mark behind which a clause or a line may end, of any script."""
    return any(
        char == "\n" or (unicodedata.category(char) == "Po" and char not in NOT_BETWEEN_CLAUSES) for char in text
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Writes the tokens of one text; `most` is the number of trials where the model is unsure.

    The first trial draws as the text would be drawn alone, the others with noise of their own. `text_of` gives the
    characters of a token.
    """

    sequence: Sequence
    sampler: Sampler
    most: float
    stop_ids: Collection[int]
    text_of: Callable[[int], str]

    def write(self, logits: NDArray[np.float32], text: SequenceOf[int]) -> Run:
        """Return the next token, or the likeliest of several runs to the next punctuation mark."""
        row = logits[0]
        count = num_trials(float(entropy_nats(row[None])[0]), self.most)
        steps = min(LONGEST, self.sequence.room)
        if count == 1 or not steps:
            return Run([self.sampler.choose(row, text)], [row])
        samplers = [self.sampler, *(self.other(number) for number in range(1, count))]
        runs = [Run([sampler.choose(row, text)], [row]) for sampler in samplers]
        sampler_of = {id(run): sampler for run, sampler in zip(runs, samplers, strict=True)}
        grow(
            runs,
            sequence=self.sequence,
            logits=logits,
            choose=lambda run, behind: sampler_of[id(run)].choose(behind, [*text, *run.token_ids]),
            has_ended=self.has_ended,
            steps=steps,
        )
        return max(runs, key=lambda run: run.mean_logprob)

    def other(self, number: int) -> Sampler:
        """Return the sampler of a trial behind the first: the same law, other noise."""
        return replace(self.sampler, seed=draft_seed(self.sampler.seed, number))

    def has_ended(self, run: Run) -> bool:
        last = run.token_ids[-1]
        return last in self.stop_ids or ends_clause(self.text_of(last))


def open_cautious(context: ApproximateContext) -> Opened:
    """Open a text; the dial is the number of trials where the model is unsure. 1 is plain decoding."""
    tokenizer = context.model.tokenizer
    trials = Trials(
        sequence=context.sequence,
        sampler=context.sampler,
        most=context.setting,
        stop_ids=context.stop_ids,
        text_of=lambda token_id: tokenizer.decode([token_id]),
    )
    steps = decode_in_runs(
        context.sequence,
        write=trials.write,
        num_layers=context.model.manifest.dimensions.num_layers,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    if context.setting == 1:
        return Opened(steps=steps, promise="all tokens as the full model's")
    return Opened(
        steps=steps,
        promise=f"cautious, the likeliest of up to {context.setting:g} trials: agreement not calibrated",
        note="the text comes by clauses",
    )


METHOD = Method(
    name="cautious",
    writes=open_cautious,
    dial=Dial(
        unit="the number of trials where the model is unsure",
        least=1.0,
        most=64.0,
        plain=1.0,
        settings=(1.0, 2.0, 4.0, 7.0, 10.0),
    ),
    chance="needed",
    all_layers=True,
)

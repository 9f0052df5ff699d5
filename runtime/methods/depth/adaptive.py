"""Early exit by a threshold that is learned from the text as it is made: no calibration is needed. Approximate.

FREE without its rollback: the drafter `free`, and a rule that lets its guesses stand. The full model sees all of them
in one call, so that its caches hold what a fresh prefill of the emitted tokens gives, and says which it would have
written; this is what the threshold is learned from. So tokens that leave appear a round late, up to 16 together.
Source: FREE (Bae et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from math import isinf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.costs import MIN_GAIN, exit_times
from skipstone.runtime.decoding import Accept, Drafter, PlainDrafter, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Sequence, exit_stages
from skipstone.runtime.methods.depth.exits import NO_EXIT_PAYS, ExitText
from skipstone.runtime.methods.depth.free import FreeDrafter, learned_exits, records_of
from skipstone.runtime.methods.method import EXITS, ApproximateContext, Dial, Method, Opened
from skipstone.runtime.sampling import Sampler

__all__ = ["METHOD", "let_leave", "open_adaptive"]

NAME = "adaptive"


class LeavingText(ExitText):
    """The text as an exit sees it; `laws` keeps the exit's logits [V] of each guess, which make the token final."""

    def __init__(self, sequence: Sequence, num_stages: int) -> None:
        super().__init__(sequence, num_stages)
        self.laws: list[NDArray[np.float32]] = []

    def follow(self, history: SequenceOf[int]) -> int:
        self.laws = []
        return super().follow(history)

    def logits(self) -> NDArray[np.float32]:
        """Feed the last token to the first stages; return the exit's logits [1, V] by the model's own head."""
        waiting = self.token_ids[self._sequence.num_cached :]
        self.laws.append(self._sequence.peek(waiting, num_stages=self._num_stages).copy())
        return self.laws[-1][None]


def open_adaptive(context: ApproximateContext) -> Opened:
    """Open a text; the dial is the estimated chance above which a token leaves.

    What is learned is kept for the model's next texts in this process, so a text depends on those before it. No exit is
    used where it does not pay here, unless forced. Raises: ConfigError when the bundle has no exits.
    """
    sequence, texts = context.sequence, _texts_of(context)
    if context.setting == 1:
        accept = match(context.sampler, sequence.token_ids)
        steps = _decode(context, PlainDrafter(), accept)
        return Opened(steps=steps, promise="all tokens as the full model's: no exit is used")
    drafter = _drafter(context, texts)
    steps = _decode(context, drafter, let_leave(context.sampler, sequence.token_ids, drafter))
    return Opened(
        steps=_by_depth(sequence, drafter, texts, steps),
        promise=_promise(drafter, context.setting),
        note="" if drafter.pays else NO_EXIT_PAYS,
    )


def _texts_of(context: ApproximateContext) -> dict[int, LeavingText]:
    """Return the text as each exit sees it, by number of layers."""
    stages = exit_stages(context.model)
    return {num_layers: LeavingText(context.sequence, num_stages) for num_layers, num_stages in stages.items()}


def _drafter(context: ApproximateContext, texts: Mapping[int, LeavingText]) -> FreeDrafter:
    records, start = records_of(context.model, context.model.shared, NAME), len(context.sequence.token_ids)
    return FreeDrafter(
        learned_exits(context.model, texts, records),
        context.sampler,
        times=exit_times(context.model),
        chance=context.setting,
        final=True,
        places=range(start, start + context.max_new_tokens),
        min_gain=0.0 if context.forced else MIN_GAIN,
    )


def let_leave(sampler: Sampler, history: SequenceOf[int], drafter: FreeDrafter) -> Accept:
    """Return the rule that emits every guess, and the full model's token behind them.

    Until the drafter has learned its threshold, guesses must be what plain decoding would have written.
    """
    strict = match(sampler, history)

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        if not drafter.is_learned:
            return strict(draft, logits)
        return [*draft.token_ids, sampler.choose(logits[-1], [*history, *draft.token_ids])]

    return accept


def _decode(context: ApproximateContext, drafter: Drafter, accept: Accept) -> Iterator[Step]:
    """Return the verifying loop over the text, its steps with the full depth."""
    depth = context.model.manifest.dimensions.num_layers
    steps = decode(
        context.sequence,
        drafter=drafter,
        accept=accept,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    return (replace(step, depth=depth) for step in steps)


def _by_depth(
    sequence: Sequence, drafter: FreeDrafter, texts: Mapping[int, LeavingText], steps: Iterator[Step]
) -> Iterator[Step]:
    """Yield of each round first the tokens that left, with the exit's logits, then the full model's token.

    That one is taken back for so long: at every step the sequence holds what was yielded, and no more.
    """
    for step in steps:
        num_left = step.num_accepted if drafter.is_learned else 0
        if not num_left:
            yield step
            continue
        left, rest = step.token_ids[:num_left], step.token_ids[num_left:]
        logits, laws = step.logits[num_left:], texts[drafter.used.num_layers].laws[:num_left]
        sequence.rollback(len(sequence.token_ids) - len(rest))
        yield replace(
            step, token_ids=left, logits=np.stack(laws), model_s=0.0, accept_s=0.0, depth=drafter.used.num_layers
        )
        if rest:
            sequence.mark_extended()  # the last token that left was fed with the others
            sequence.commit(rest)
            yield replace(step, token_ids=rest, logits=logits, num_drafted=0, num_accepted=0, draft_s=0.0)


def _promise(drafter: FreeDrafter, chance: float) -> str:
    """Return what is known when a text begins."""
    record, num_layers = drafter.used.judge, drafter.used.num_layers
    promise = (
        f"a token leaves where its chance to be the full model's is estimated above {chance:g}, learned as texts go"
    )
    if not drafter.is_learned:
        return f"{promise}; not known yet, so tokens that leave are checked until then"
    surer = "never" if isinf(drafter.threshold) else f"above a confidence of {drafter.threshold:g}"
    return f"{promise}; now after {num_layers} layers {surer}, from {record.num_pairs} tokens"


METHOD = Method(
    name="adaptive",
    needs=(EXITS,),
    writes=open_adaptive,
    dial=Dial(
        unit="the least estimated chance that a token which leaves is the full model's",
        least=0.0,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.99, 0.9, 0.7, 0.5),
    ),
)

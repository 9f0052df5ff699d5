"""The loop that lets a token leave at an exit where that is sure of it. Approximate: such a token is final.

Sources: FREE (Bae et al., 2023) for late stages that catch up with exact caches; CALM (Schuster et al., 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from time import perf_counter

from skipstone.runtime.costs import MOST_BEHIND
from skipstone.runtime.decoding import Choose, Step
from skipstone.runtime.engine import Draft, Sequence
from skipstone.runtime.methods.depth.exits import MIN_GAIN, NO_EXIT_PAYS, Exit, ExitPolicy, open_policy
from skipstone.runtime.methods.method import EXITS, ApproximateContext, Dial, Method, Opened

__all__ = ["METHOD", "decode_early", "open_exit"]


def open_exit(context: ApproximateContext) -> Opened:
    """Open a text by calibrated exits; the dial is the agreement. Raises: ConfigError without exits or calibration."""
    min_gain = 0.0 if context.forced else MIN_GAIN
    policy, promise = open_policy(context.model, context.setting, calibration=context.calibration, min_gain=min_gain)
    steps = decode_early(
        context.sequence,
        policy=policy,
        choose=context.sampler.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    return Opened(steps=steps, promise=promise, note="" if policy.pays else NO_EXIT_PAYS)


def decode_early(
    sequence: Sequence, *, policy: ExitPolicy, choose: Choose, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; each step says which depth made it.

    Where the exit is sure, the later stages fall behind, by at most 16 tokens. Otherwise one call of theirs catches up,
    so that their caches hold what a fresh prefill of the emitted tokens gives, and the full model's token is taken.
    Invariant: as in `decode`; the tokens behind wait in the sequence, also after the last step.
    Raises: CacheFull when prompt and answer do not fit.
    """
    sequence.require_room(max_new_tokens)
    chosen: Exit | None = None
    for _ in range(max_new_tokens):
        if sequence.num_waiting == 1:  # tokens that fell behind at one exit go on from there
            chosen = policy.choose() if sequence.num_cached else None
        step = _step(sequence, policy, chosen, choose)
        yield step
        if step.token_ids[0] in stop_ids:
            return


def _step(sequence: Sequence, policy: ExitPolicy, chosen: Exit | None, choose: Choose) -> Step:
    """Ask the exit, then the full model if need be."""
    start = perf_counter()
    if chosen is not None and sequence.num_waiting <= MOST_BEHIND and not sequence.is_stale:
        waiting = sequence.token_ids[sequence.num_cached :]
        peek = sequence.peek_hidden if chosen.reads_states else sequence.peek
        shown = peek(waiting, num_stages=chosen.num_stages)
        if policy.is_sure(chosen, shown):
            logits = sequence.peek_logits() if chosen.reads_states else shown
            called = perf_counter()
            token_id = choose(logits, sequence.token_ids)
            sequence.append([token_id])
            return Step.of_one(
                token_id, logits, chosen.num_layers, model_s=called - start, accept_s=perf_counter() - called
            )
    logits = sequence.extend(Draft.empty())[0]
    called = perf_counter()
    token_id = choose(logits, sequence.token_ids)
    sequence.commit([token_id])
    return Step.of_one(token_id, logits, policy.num_layers, model_s=called - start, accept_s=perf_counter() - called)


METHOD = Method(
    name="exit",
    needs=(EXITS,),
    writes=open_exit,
    dial=Dial(
        unit="the share of tokens as the full model's",
        least=0.8,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.99, 0.98, 0.95, 0.9),
        is_agreement=True,
    ),
)

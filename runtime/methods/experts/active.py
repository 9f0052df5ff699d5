"""Every token from a share of the experts of each layer, the ones that a router finds fit. Approximate.

The prompt is read by all experts, as CMoE has it: many rows together would reach most experts anyway. New tokens run
the share; whoever goes on with the text feeds them to all experts, so that no row of fewer stays in the cache.

Source: CMoE (Pei et al., 2025); MoEfication (Zhang et al., 2022).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Choose, Step, decode_singly
from skipstone.runtime.engine import Draft, Part, Sequence
from skipstone.runtime.methods.experts.levels import EXPERTS, ActiveLevel, level_for, sparse_part
from skipstone.runtime.methods.method import ApproximateContext, Dial, Method, Opened

__all__ = ["ACTIVE", "METHOD", "decode_active", "open_active"]


def open_active(context: ApproximateContext) -> Opened:
    """Open a text whose new tokens run a share of the experts: the dial. Raises: ConfigError as `Method.open`."""
    level = None if context.setting == 1 else level_for(context.model, context.setting)
    steps = decode_active(
        context.sequence,
        part=None if level is None or level.share == 1 else sparse_part(level),
        choose=context.sampler.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    return Opened(steps=steps, promise=_promise(level))


def _promise(level: ActiveLevel | None) -> str:
    if level is None or level.share == 1:
        return "all tokens as the full model's: all experts are active"
    measured = "agreement not calibrated" if level.kl is None else f"KL {level.kl:.3f} to all of them where measured"
    return f"{level.share:.0%} of the experts make each new token: {measured}"


def decode_active(
    sequence: Sequence, *, part: Part | None, choose: Choose, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; `part` makes all but the first, None is plain.

    Tokens that it makes wait in the sequence, also after the last step. Cost: a row of the part, and a pass in Python
    over the tokens that wait. Raises: CacheFull when prompt and answer do not fit.
    """
    num_layers, is_read = sequence.sessions.manifest.dimensions.num_layers, False

    def look() -> tuple[NDArray[np.float32], int]:
        nonlocal is_read
        if part is None or not is_read or sequence.is_stale:
            is_read = True
            return sequence.extend(Draft.empty())[0], num_layers
        return sequence.peek_by(sequence.token_ids[sequence.num_cached :], part), num_layers

    return decode_singly(sequence, look=look, choose=choose, max_new_tokens=max_new_tokens, stop_ids=stop_ids)


METHOD = ACTIVE = Method(
    name="active",
    needs=(EXPERTS,),
    writes=open_active,
    dial=Dial(
        unit="the share of experts that are active",
        least=0.0,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.9, 0.75, 0.5, 0.25),
    ),
    all_layers=True,
)

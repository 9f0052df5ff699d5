"""The loop in which two models take turns: the large one writes where the text is hard, the small one elsewhere.

Nobody verifies: what is written stays. Source: entropy-adaptive decoding (Simonds, 2025).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.decoding import Choose, Step, decode_singly
from skipstone.runtime.engine import Draft, Sequence
from skipstone.runtime.methods.method import DRAFT_MODEL, ApproximateContext, Dial, Method, Opened
from skipstone.runtime.methods.small_model.follower import SmallModel, open_small_model
from skipstone.runtime.sampling import entropy_nats

__all__ = ["METHOD", "EntropySwitch", "decode_switch", "entropy_bits", "open_switch"]


def entropy_bits(logits: NDArray[np.float32]) -> float:
    """Return the entropy of a row [V] of raw logits, in bits, at least 0."""
    return max(float(entropy_nats(logits[None].astype(np.float64))[0]) / math.log(2), 0.0)


class EntropySwitch:
    """Says who writes the next token: the large model while the text is hard, by a rolling mean of the entropies.

    The mean is over the last `window` tokens, each with the entropy of the model that wrote it. Who has taken over
    writes at least `min_stay` tokens. A mean of exactly `dial` bits changes nothing, so at 0 the large model stays.
    """

    def __init__(self, dial: float, *, window: int = 5, min_stay: int = 10, is_large: bool = True) -> None:
        """`is_large`: whether the large model starts."""
        self.is_large = is_large
        self._dial, self._min_stay = dial, min_stay
        self._last = deque[float](maxlen=window)
        self._num_written = 0  # since the last switch

    @property
    def mean(self) -> float:
        """The mean of the last entropies, of which there must be one."""
        return sum(self._last) / len(self._last)

    def see(self, entropy: float) -> None:
        """Learn the entropy, in bits, at which the last token was written."""
        self._last.append(entropy)
        self._num_written += 1
        if self._num_written < self._min_stay or self.mean == self._dial:
            return
        wants_large = self.mean > self._dial
        if wants_large != self.is_large:
            self.is_large, self._num_written = wants_large, 0


def open_switch(context: ApproximateContext) -> Opened:
    """Open a text of two models; the dial is the mean entropy in bits above which the large one writes.

    Raises: ConfigError when the bundle has no small model with the target's tokenizer.
    """
    steps = decode_switch(
        context.sequence,
        small=open_small_model(context, "switch"),
        num_layers=context.model.manifest.dimensions.num_layers,
        switch=EntropySwitch(context.setting),
        choose=context.sampler.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    promise = f"switch at {context.setting:g} bits of entropy: agreement not calibrated"
    return Opened(steps=steps, promise=promise if context.setting else "all tokens as the full model's")


def decode_switch(
    sequence: Sequence,
    *,
    small: SmallModel,
    num_layers: int,
    switch: EntropySwitch,
    choose: Choose,
    max_new_tokens: int,
    stop_ids: Collection[int],
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; its depth is that of the model that made it.

    While one model writes the other falls behind, and reads all it has missed in one call when its turn comes: each
    cache is that of a fresh prefill. `num_layers` is the depth of the large one, which also writes what the small one
    can no longer see. Tokens that the large one has not read wait in the sequence, also after the last step.
    Raises: CacheFull when prompt and answer do not fit.
    """

    def look() -> tuple[NDArray[np.float32], int]:
        logits = None if switch.is_large else small.logits(sequence.token_ids)
        if logits is not None:
            return logits, small.num_layers
        return sequence.extend(Draft.empty())[0], num_layers

    def choose_and_see(logits: NDArray[np.float32], token_ids: SequenceOf[int]) -> int:
        token_id = choose(logits, token_ids)
        switch.see(entropy_bits(logits))
        return token_id

    return decode_singly(sequence, look=look, choose=choose_and_see, max_new_tokens=max_new_tokens, stop_ids=stop_ids)


METHOD = Method(
    name="switch",
    needs=(DRAFT_MODEL,),
    writes=open_switch,
    dial=Dial(
        unit="entropy in bits",
        least=0.0,
        most=math.inf,
        plain=0.0,
        settings=(0.0, 0.5, 1.0, 2.0, 4.0),
    ),
)

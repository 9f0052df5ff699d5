"""The loop in which each token runs fewer layers than the one before: the middle ones are left out. Approximate.

Depth depends on the place in the text alone, and a layer that was left out once stays out, so every layer that runs has
seen all tokens before. Made for models that were tuned with the same schedule; others lose much.

Source: SkipDecode (Del Corro et al., 2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import StageEntry
from skipstone.runtime.decoding import Choose, Step, decode_singly
from skipstone.runtime.engine import Draft, Sequence
from skipstone.runtime.methods.method import ApproximateContext, Dial, Method, Opened

__all__ = ["METHOD", "SkipSchedule", "decode_skipping", "open_skipdecode"]

WARM_UP = 1  # so many first stages run for every token


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipSchedule:
    """How many layers make the token at each place: all for the first, then fewer, down to `least` after `horizon`."""

    stages: SequenceOf[StageEntry]
    least: float
    horizon: int

    def __post_init__(self) -> None:
        if len(self.stages) < WARM_UP + 2:
            raise ConfigError(
                f"skipdecode leaves out stages between the first and the last, and the bundle has {len(self.stages)} "
                "in all; make one with `skipstone export CHECKPOINT -o OUT --exits auto`, or --cuts each"
            )

    @property
    def num_layers(self) -> int:
        """How many layers the model has."""
        return self.stages[-1].end_layer

    def budget(self, place: int) -> float:
        """Return the number of layers for the new token number `place`, 0 the first, before it is rounded."""
        return self.num_layers - (self.num_layers - self.least) * min(place, self.horizon) / self.horizon

    def late_stages(self, place: int) -> tuple[int, ...]:
        """Return the stages that run behind the first: the last ones, at least one.

        As few as let the budget run, which is rounded to whole layers, a half up.
        """
        wanted, start = math.floor(self.budget(place) + 0.5), len(self.stages) - 1
        while start > WARM_UP and self._depth(start) < wanted:
            start -= 1
        return tuple(range(start, len(self.stages)))

    def depth(self, place: int) -> int:
        """Return the number of layers that make a new token."""
        return self._depth(self.late_stages(place)[0])

    @property
    def fewest(self) -> int:
        """How many layers run at least: those of the first and the last stage."""
        return self._depth(len(self.stages) - 1)

    def _depth(self, start: int) -> int:
        """Return the number of layers when the stages from `start` on follow the first ones."""
        return self.stages[WARM_UP - 1].end_layer + self.num_layers - self.stages[start].first_layer


def open_skipdecode(context: ApproximateContext) -> Opened:
    """Open a text that ends with a share of the layers: the dial. The horizon is `max_new_tokens`.

    Raises: ConfigError for a bundle of fewer than three stages.
    """
    manifest, horizon = context.model.manifest, context.max_new_tokens
    num_layers = manifest.dimensions.num_layers
    schedule = SkipSchedule(stages=manifest.stages, least=context.setting * num_layers, horizon=horizon)
    steps = decode_skipping(
        context.sequence,
        schedule=schedule,
        choose=context.sampler.choose,
        max_new_tokens=context.max_new_tokens,
        stop_ids=context.stop_ids,
    )
    lowest = schedule.depth(horizon - 1)
    if lowest == num_layers:
        return Opened(steps=steps, promise="all tokens as the full model's: no layer is left out")
    fewest = ", the fewest of this bundle" if lowest == schedule.fewest else ""
    promise = f"skipdecode down to {lowest} of {num_layers} layers{fewest}: agreement not calibrated"
    return Opened(steps=steps, promise=promise)


def decode_skipping(
    sequence: Sequence, *, schedule: SkipSchedule, choose: Choose, max_new_tokens: int, stop_ids: Collection[int]
) -> Iterator[Step]:
    """Yield one token a step, until a stop token or `max_new_tokens`; each step says how many layers made it.

    The prompt runs all layers, and so does a text that is fed again since its positions changed. Tokens that ran fewer
    wait in the sequence, also after the last step: whoever goes on feeds them to all layers, so that no provisional row
    stays in the cache. Cost: a row of each stage that runs, and a pass in Python over the tokens that wait, 0.05 ms for
    1,000.
    Raises: CacheFull when prompt and answer do not fit.
    """
    places = itertools.count()

    def look() -> tuple[NDArray[np.float32], int]:
        place = next(places)
        depth = schedule.num_layers if sequence.is_stale else schedule.depth(place)
        if depth == schedule.num_layers:
            return sequence.extend(Draft.empty())[0], depth
        waiting = sequence.token_ids[sequence.num_cached :]
        return sequence.peek(waiting, num_stages=WARM_UP, then=schedule.late_stages(place)), depth

    return decode_singly(sequence, look=look, choose=choose, max_new_tokens=max_new_tokens, stop_ids=stop_ids)


METHOD = Method(
    name="skipdecode",
    writes=open_skipdecode,
    dial=Dial(
        unit="the share of the layers that run at the end",
        least=0.0,
        most=1.0,
        plain=1.0,
        settings=(1.0, 0.9, 0.75, 0.5, 0.25),
    ),
)

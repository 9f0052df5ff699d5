"""What every exit makes of a text, beside what the full model makes of it: each stage runs once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Feed, Model, Part, exit_stages
from skipstone.runtime.sampling import CONFIDENCES, SATURATION
from skipstone.runtime.text import WINDOW, windows_of

__all__ = ["AtDepth", "at_depths", "depth_hidden", "depth_logits", "text_windows"]

MOST_ROWS = 128
# Logits of all depths are held for this many tokens times words of the vocabulary.
MOST_LOGITS = 2**22


def text_windows(model: Model, texts: SequenceOf[str]) -> list[list[int]]:
    """Return the tokens of texts in windows of at most 512 that the model can see; short rests are left out."""
    manifest = model.manifest
    return windows_of(model.tokenizer, texts, min(WINDOW, manifest.context_length, manifest.long_rope_from or WINDOW))


@dataclass(frozen=True, slots=True)
class AtDepth:
    """What one depth makes of T tokens: `logits` [T, V] for what follows each, and `hidden` states [T, E].

    `before` are the hidden states that go into the last stage; None where that is the first, which reads tokens.
    Where an exit has an adapter, it stands between `hidden` and `logits`.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    before: NDArray[np.float32] | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the measures that this depth allows."""
        return tuple(CONFIDENCES) if self.before is None else (*CONFIDENCES, SATURATION)

    def shown(self, metric: str) -> NDArray[np.float32]:
        """Return what a measure reads: logits [T, V], or hidden states [T, 2, E] around the last stage."""
        if metric != SATURATION:
            return self.logits
        if self.before is None:
            raise ConfigError("saturation compares hidden states around a stage, and the first stage reads tokens")
        return np.stack([self.before, self.hidden], axis=1)


def depth_logits(model: Model, token_ids: SequenceOf[int]) -> Iterator[Mapping[int, NDArray[np.float32]]]:
    """Yield logits [T, V] by number of layers, for what follows each token; pieces of T tokens cover the text.

    The last of them are the full model's, the others the exits'.
    """
    for found in at_depths(model, token_ids):
        yield {num_layers: one.logits for num_layers, one in found.items()}


def depth_hidden(model: Model, token_ids: SequenceOf[int]) -> Iterator[Mapping[int, NDArray[np.float32]]]:
    """Yield hidden states [T, E] by number of layers, as `depth_logits` does: what the exits or their adapters read."""
    for found in at_depths(model, token_ids, head=False):
        yield {num_layers: one.hidden for num_layers, one in found.items()}


def at_depths(model: Model, token_ids: SequenceOf[int], *, head: bool = True) -> Iterator[Mapping[int, AtDepth]]:
    """Yield what each exit, and last the full model, makes of a text, by number of layers; pieces of T tokens cover it.

    Without the `head` the logits are of no row.
    """
    depths = {number: num_layers for num_layers, number in exit_stages(model).items()}
    num_stages = len(model.manifest.stages)
    depths[num_stages] = model.manifest.dimensions.num_layers
    most = MOST_LOGITS // model.manifest.dimensions.vocab_size if head else MOST_ROWS
    most = max(1, min(MOST_ROWS, most))
    workspace = model.new_workspace(context_length=len(token_ids))
    for start in range(0, len(token_ids), most):
        piece = token_ids[start : start + most]
        found, before = {}, None
        for end in range(1, num_stages + 1):
            asked = head and end in depths
            rows = range(len(piece) if asked else 0)
            feed = Feed.of(piece, rows=rows, length=start, hidden=before)
            call = workspace.call(feed, Part(range(end - 1, end), head=asked, exit=end))
            logits, hidden = call.run(feed), call.hidden[0].copy()
            if end in depths:
                found[depths[end]] = AtDepth(logits.copy(), hidden, before)
            before = hidden
        yield found

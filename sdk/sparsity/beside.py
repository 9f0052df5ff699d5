"""What stands in the table beside the methods: anything that gives logits for windows of text, such as carved experts.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.exporters.families import Architecture
from skipstone.runtime.engine import WHOLE, Feed, Model, Part
from skipstone.runtime.methods.experts import levels_of, sparse_part
from skipstone.sparsity.products import products_of
from skipstone.sparsity.work import SkippedWork

__all__ = ["Beside", "besides"]

Logits: TypeAlias = NDArray[np.float32]
_ROWS: Final = 64  # of a call


class Beside(Protocol):
    """Gives logits for windows of text. `skipped` is the work that it skips of a token's."""

    name: str
    skipped: SkippedWork

    def logits(self, window: Sequence[int], num_dense: int) -> Iterator[Logits]:
        """Yield logits [N, V] behind each token of a window but the last, from number `num_dense` on.

        The first `num_dense` tokens are read densely, as a prompt is. Each piece is valid until the next.
        """
        ...


@dataclass(slots=True)
class BundleBeside:
    """The graphs of a bundle that `part` names: all of it, or some of the experts that its FFNs were carved into."""

    name: str
    skipped: SkippedWork
    model: Model
    part: Part = WHOLE

    def logits(self, window: Sequence[int], num_dense: int) -> Iterator[Logits]:
        """Yield logits [N, V] behind each token of a window but the last, from number `num_dense` on."""
        workspace = self.model.new_workspace(context_length=len(window))
        prompt = Feed.of(window[:num_dense], rows=range(num_dense - 1, num_dense))
        workspace.call(prompt, WHOLE).run(prompt)
        for start in range(num_dense, len(window) - 1, _ROWS):
            piece = window[start : min(start + _ROWS, len(window) - 1)]
            feed = Feed.of(piece, rows=range(len(piece)), length=start)
            yield workspace.call(feed, self.part).run(feed)


def besides(bundle: Path, architecture: Architecture) -> list[BundleBeside]:
    """Return a bundle of a checkpoint: dense, and with carved experts at each share that it knows.

    Raises: BundleError; ConfigError for a bundle of another vocabulary.
    """
    model = Model.open(bundle)
    found, wanted = model.manifest.dimensions.vocab_size, architecture.dimensions.vocab_size
    if found != wanted:
        raise ConfigError(f"{bundle} has {found} tokens and the checkpoint {wanted}; give a bundle of this checkpoint")
    dense = BundleBeside(bundle.name, _skipped(architecture, [1.0] * architecture.dimensions.num_layers, 0), model)
    experts = model.manifest.experts
    if experts is None:
        return [dense]
    levels = [level for level in levels_of(model) if level.share < 1]
    router = 2 * (experts.num_experts - experts.num_shared) * architecture.dimensions.hidden_size
    return [
        dense,
        *(
            BundleBeside(
                f"{bundle.name}, {level.share:.0%} active",
                _skipped(architecture, [count / experts.num_experts for count in level.counts], router),
                model,
                sparse_part(level),
            )
            for level in levels
        ),
    ]


def _skipped(architecture: Architecture, active: Sequence[float], router: int) -> SkippedWork:
    """Return what is skipped where so much of each layer's FFN is active, chosen by a router of so much work."""
    skipped = SkippedWork()
    for layer, share in enumerate(active):
        names = dict.fromkeys(("gate_up", "down"), share)
        skipped.add(products_of(architecture, layer), names, {"ffn": router})
    return skipped

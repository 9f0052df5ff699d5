"""What to leave out of a checkpoint: searched on a copy of it, by what text costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skipstone.calibrate import Documents, Windows
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.exporters.families import Architecture
from skipstone.exporters.optimum import WrappedPlan
from skipstone.exporters.transforms import Transform, apply
from skipstone.prune.amount import Amount
from skipstone.prune.depth import find_blocks, find_layers
from skipstone.prune.reader import Loss
from skipstone.prune.width import find_widths

__all__ = ["Pruning", "find_pruning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What leaves out a part of the model, which `share` of the weights that is, and what it costs.

    The cost is measured on text that was held back.
    """

    transform: Transform
    loss: Loss
    share: float

    def __str__(self) -> str:
        loss = self.loss
        return (
            f"{self.transform}, {100 * self.share:.1f} % of the weights: KL {loss.kl:.4f}, perplexity "
            f"{loss.perplexity_before:.2f} before, {loss.perplexity:.2f} after, on {loss.num_tokens} tokens held back"
        )


def find_pruning(
    plan: ExportPlan | WrappedPlan,
    amount: str,
    documents: Documents,
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Pruning:
    """Return what to leave out so that it costs least; `plan` is that of the whole model.

    What an interrupted search has judged is not judged again. `on_progress` gets the share that is done.
    Raises: ConfigError for an amount that does not fit, and too short a text; UnsupportedModel for a model of which
    that cannot be left out.
    """
    if not isinstance(plan, ExportPlan):
        raise ConfigError("--via optimum takes the graph as it comes, so it cannot be pruned; leave one out")
    what = Amount.parse(amount)
    find = {"layers": find_layers, "blocks": find_blocks, "width": find_widths}[what.kind]
    transform, loss = find(plan, what, Windows.of(plan, documents, seed=seed), seed, on_progress)
    on_progress(1.0)
    smaller = apply([transform], plan.architecture, plan.checkpoint.tensors).architecture
    share = 1 - _num_weights(smaller) / _num_weights(plan.architecture)
    return Pruning(transform=transform, loss=loss, share=share)


def _num_weights(architecture: Architecture) -> int:
    return sum(math.prod(shape) for shape in architecture.tensor_shapes().values())

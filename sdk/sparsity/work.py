"""How much work a sparse model really skips, counted on the tokens that are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skipstone.sparsity.masks import INNER
from skipstone.sparsity.products import FFN, Product, work_of

__all__ = ["SkippedWork"]


@dataclass(slots=True)
class SkippedWork:
    """Multiply-adds of a token, all and skipped: of the layers' products, and of those in FFNs.

    What a method adds is taken off what it skips.
    """

    layers: float = 0.0
    ffn: float = 0.0
    skipped: float = 0.0
    skipped_ffn: float = 0.0

    def add(self, products: Sequence[Product], active: Mapping[str, float], added: Mapping[str, int]) -> None:
        """Add a layer, where `active` is the share of numbers that were not 0, by the product, matrix or gate.

        A gate of 0 spares the row of `up`: the gates come first.
        """
        self.layers += work_of(products)
        self.ffn += work_of(products, FFN)
        for product in products:
            share = active.get(product.name, active.get(product.matrix, 1.0))
            share *= active.get(INNER, 1.0) if product.name == "up" else 1.0
            self.skipped += (1 - share) * product.work
            self.skipped_ffn += (1 - share) * product.work if product.name in FFN else 0.0
        self.skipped -= sum(added.values())
        self.skipped_ffn -= added.get("ffn", 0)

    def shares(self, head: int) -> tuple[float, float, float]:
        """Return what is skipped: of the layers, of the FFNs, and of a whole step with a `head` of so much work."""
        return (
            self.skipped / self.layers,
            self.skipped_ffn / self.ffn if self.ffn else 0.0,
            self.skipped / (self.layers + head),
        )

"""One layer that is to become sparse: its products, what it showed on a text, and what masks cost it.

Shapes: W windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph
from skipstone.sparsity.products import FFN, Product, work_of
from skipstone.sparsity.seen import Given, Magnitudes, Seen, dense_rows

__all__ = ["SCOPES", "Scope", "SparseLayer"]

Floats: TypeAlias = NDArray[np.float32]
SCOPES: Final = ("layers", "ffn")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which products of a layer are made sparse, and whose work is the whole: `layers` is all of them, or `ffn`."""

    name: str = "layers"

    def of(self, products: Sequence[Product]) -> Sequence[Product]:
        """Return the products of a layer that are made sparse."""
        return products if self.name == "layers" else [product for product in products if product.name in FFN]

    def work(self, products: Sequence[Product], names: Collection[str] | None = None) -> int:
        """Return the work of those that are made sparse, or of some of them."""
        return work_of(self.of(products), names)


class SparseLayer:
    """What a method needs to choose its masks: a graph that has them, and states [W, T, E] to try them on."""

    def __init__(
        self, products: Sequence[Product], scope: Scope, seen: Seen, graph: LayerGraph, states: Floats
    ) -> None:
        """`products` are all of the layer."""
        self.products, self.scope, self.seen = products, scope, seen
        self._graph, self._states = graph, states
        self._dense: Floats | None = None

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """The share of the work that each product is, of those that are made sparse."""
        total = self.scope.work(self.products)
        return {product.name: product.work / total for product in self.scope.of(self.products)}

    @cached_property
    def sizes(self) -> Mapping[str, Magnitudes]:
        """The sizes of what each product reads, by its name."""
        by_matrix = {
            product.matrix: Magnitudes.of(self.seen.values[product.matrix], product.num_inputs)
            for product in self.products
        }
        return {product.name: by_matrix[product.matrix] for product in self.products}

    def error(self, given: Given) -> float:
        """Return how far the states behind the layer are from those without masks, as a length."""
        if self._dense is None:
            self._dense = self._behind(given, num_dense=self._states.shape[1])
        return float(np.linalg.norm(self._behind(given, num_dense=0) - self._dense))

    def _behind(self, given: Given, *, num_dense: int) -> Floats:
        rows = dense_rows(self._states.shape[1], num_dense)
        return self._graph.read(["hidden_out"], self._states, {**given, **rows})["hidden_out"]

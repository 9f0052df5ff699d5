"""What a layer shows on a calibration text: the sizes of what its products read.

Shapes: W windows, T tokens of each, E hidden size, K inputs of a product, R rows, N numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import LayerGraph, batches
from skipstone.sparsity.masks import DENSE_ROWS, INNER
from skipstone.sparsity.products import Product

__all__ = ["Given", "Magnitudes", "Seen", "dense_rows", "masked_counts", "no_cuts"]

Floats: TypeAlias = NDArray[np.float32]
Given: TypeAlias = Mapping[str, NDArray[np.generic]]
"""Inputs of a masked graph by name."""
_ROWS: Final = 1024  # of which sizes are sorted
_FIRST: Final = 4  # tokens of a window: texts begin with large values that sparse rows never see


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Sizes of numbers, ascending [N], of which `num_real` are there; the others are zeros that fill up heads."""

    ascending: Floats
    num_real: int

    @classmethod
    def of(cls, values: Floats, num_real: int) -> Self:
        """Return those of rows [R, K], which have so many real numbers each."""
        return cls(np.sort(np.abs(values), axis=None), num_real * len(values))

    def cut(self, share: float) -> float:
        """Return the size below which this share of the numbers lies; 0 cuts nothing."""
        if share <= 0:
            return 0.0
        kept = round((1 - share) * self.num_real)
        return float(self.ascending[-kept]) if kept else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Rows [R, K] of the inputs of matrices by their name, the gate behind its activation as `inner`, and `up_values`.

    `second_moments` [K, K] are those of the inputs of matrices.
    """

    values: Mapping[str, Floats]
    second_moments: Mapping[str, NDArray[np.float64]]

    @classmethod
    def on(cls, graph: LayerGraph, products: Sequence[Product], states: Floats) -> Self:
        """Return what a graph with thresholds shows on states [W, T, E], nothing cut."""
        is_gated = any(product.name == "gate" for product in products)
        names = [*{product.matrix: None for product in products}, *((INNER, "up_values") if is_gated else ())]
        given = no_cuts(products) | dense_rows(states.shape[1], states.shape[1])
        rows: dict[str, list[Floats]] = {name: [] for name in names}
        for batch in batches(states):
            found = graph.read([f"seen_{name}" for name in names], states[batch], given)
            for name in names:
                values = found[f"seen_{name}"][:, _FIRST:]
                rows[name].append(values.reshape(-1, values.shape[-1]))
        whole = {name: np.concatenate(parts) for name, parts in rows.items()}
        every = max(1, len(next(iter(whole.values()))) // _ROWS)
        moments = {name: (x.T @ x).astype(np.float64) for name, x in whole.items() if name in ("qkv", "gate_up", "up")}
        return cls(values={name: x[::every] for name, x in whole.items()}, second_moments=moments)


def dense_rows(num_tokens: int, num_dense: int) -> dict[str, NDArray[np.generic]]:
    """Return the input that keeps the first rows of each window dense."""
    return {DENSE_ROWS: (np.arange(num_tokens) < num_dense)[None, :, None]}


def no_cuts(products: Sequence[Product]) -> dict[str, NDArray[np.generic]]:
    """Return the thresholds that cut nothing."""
    return {f"cut_{name}": np.zeros(1, np.float32) for name in masked_counts(products)}


def masked_counts(products: Sequence[Product]) -> dict[str, int]:
    """Return how many numbers each value has that a threshold may cut, by the name of the product, or `inner`."""
    counts = {product.name: product.num_inputs for product in products}
    return counts | ({INNER: counts["down"]} if "gate" in counts else {})

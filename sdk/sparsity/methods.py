"""Methods of activation sparsity: which numbers of a layer become 0, for a share of the work that is to be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.sparsity.greedy import Shares, greedy_path, shares_at
from skipstone.sparsity.layer import Scope, SparseLayer
from skipstone.sparsity.masks import INNER, Change, mask_rotated, mask_thresholds
from skipstone.sparsity.products import FFN, Product
from skipstone.sparsity.seen import Given, Magnitudes, masked_counts, no_cuts

__all__ = ["METHODS", "SparsityMethod", "parse_methods"]

_SAVED_BY_GATE: Final = ("up", "down")


class SparsityMethod(Protocol):
    """Chooses masks layer by layer, each for the same share of its work. `name` is the word on the command line."""

    name: ClassVar[str]
    needs_gate: ClassVar[bool]

    def masks(self, products: Sequence[Product], scope: Scope) -> Change:
        """Return what writes the masks into the graph of a layer."""
        ...

    def counted(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        """Return how many numbers each value has that the graph masks, by its name."""
        ...

    def added(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        """Return the work that the method adds, for `attention` and for `ffn`."""
        ...

    def reach(self, products: Sequence[Product], scope: Scope) -> float:
        """Return the most that could be saved of a layer's work."""
        ...

    def settings(self, layer: SparseLayer, saved: Sequence[float]) -> list[Given]:
        """Return the inputs of the graph that save each of these shares of the layer's work."""
        ...


class _Thresholds:
    """What methods have in common whose numbers become 0 below a threshold."""

    def masks(self, products: Sequence[Product], scope: Scope) -> Change:
        return mask_thresholds(products)

    def counted(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        return masked_counts(products)

    def added(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        return {}


class Teal(_Thresholds):
    """A threshold for the inputs of each product, sparsity shared out among the products of a layer greedily.

    Source: TEAL (Liu et al., 2024).
    """

    name: ClassVar[str] = "teal"
    needs_gate: ClassVar[bool] = False

    def reach(self, products: Sequence[Product], scope: Scope) -> float:
        return 1.0

    def settings(self, layer: SparseLayer, saved: Sequence[float]) -> list[Given]:
        path = greedy_path(layer.shares, lambda shares: layer.error(self._cuts(layer, shares)), max(saved))
        return [self._cuts(layer, shares_at(path, layer.shares, share)) for share in saved]

    def _cuts(self, layer: SparseLayer, shares: Shares) -> Given:
        cuts = {f"cut_{name}": np.array([layer.sizes[name].cut(share)], np.float32) for name, share in shares.items()}
        return no_cuts(layer.products) | cuts


class Cats(_Thresholds):
    """One threshold for the gates behind their activation: rows of `up` and columns of `down` are skipped.

    Source: CATS (Lee et al., 2024).
    """

    name: ClassVar[str] = "cats"
    needs_gate: ClassVar[bool] = True
    also: ClassVar[tuple[str, ...]] = ()
    """Products with a threshold for their inputs, of the same sparsity."""

    def reach(self, products: Sequence[Product], scope: Scope) -> float:
        return scope.work(products, (*_SAVED_BY_GATE, *self.also)) / scope.work(products)

    def settings(self, layer: SparseLayer, saved: Sequence[float]) -> list[Given]:
        reach = self.reach(layer.products, layer.scope)
        gates = self._gates(layer)
        return [self._cuts(layer, gates, share / reach) for share in saved]

    def _cuts(self, layer: SparseLayer, gates: Magnitudes, share: float) -> Given:
        given = no_cuts(layer.products)
        given[f"cut_{INNER}"] = gates.cut(share) / self._weights(layer)
        for name in layer.shares:
            if name in self.also:
                given[f"cut_{name}"] = np.array([layer.sizes[name].cut(share)], np.float32)
        return given

    def _gates(self, layer: SparseLayer) -> Magnitudes:
        """Return the sizes of gates, each by its weight."""
        values = layer.seen.values[INNER]
        return Magnitudes.of(values * self._weights(layer), values.shape[1])

    def _weights(self, layer: SparseLayer) -> NDArray[np.float32]:
        """Return how much a gate counts, for all [1] or for each channel [I]."""
        return np.ones(1, np.float32)


class Chess(Cats):
    """As CATS, each channel's gate weighed by what it is multiplied with in the root mean square; q and o as in TEAL.

    Source: CHESS (He et al., 2024).
    """

    name: ClassVar[str] = "chess"
    also: ClassVar[tuple[str, ...]] = ("q", "o")

    def _weights(self, layer: SparseLayer) -> NDArray[np.float32]:
        means = np.square(layer.seen.values["up_values"], dtype=np.float64).mean(axis=0)
        roots: NDArray[np.float32] = np.sqrt(np.maximum(means, np.finfo(np.float32).tiny)).astype(np.float32)
        return roots


class Larosa:
    """The largest inputs of each product and no others, after a rotation to principal axes.

    The rotations of the stream are counted as work: the residual cannot carry them for free. Shares as in TEAL.
    Source: LaRoSA (Liu et al., 2025).
    """

    name: ClassVar[str] = "larosa"
    needs_gate: ClassVar[bool] = False

    def masks(self, products: Sequence[Product], scope: Scope) -> Change:
        return mask_rotated(scope.of(products))

    def counted(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        return {product.matrix: product.num_inputs for product in scope.of(products)}

    def added(self, products: Sequence[Product], scope: Scope) -> Mapping[str, int]:
        turned = {product.matrix: product for product in scope.of(products) if product.matrix not in ("o", "down")}
        return {"ffn" if product.name in FFN else "attention": product.num_inputs**2 for product in turned.values()}

    def reach(self, products: Sequence[Product], scope: Scope) -> float:
        return 1.0 - self._added(products, scope)

    def _added(self, products: Sequence[Product], scope: Scope) -> float:
        return sum(self.added(products, scope).values()) / scope.work(products)

    def settings(self, layer: SparseLayer, saved: Sequence[float]) -> list[Given]:
        products, turns = layer.scope.of(layer.products), self._turns(layer)
        works = dict.fromkeys(self.counted(layer.products, layer.scope), 0.0)
        for product in products:
            works[product.matrix] += layer.shares[product.name]
        counts = self.counted(layer.products, layer.scope)

        def kept(shares: Shares) -> Given:
            numbers = {
                f"kept_{matrix}": np.array([max(1, round((1 - shares[matrix]) * count))])
                for matrix, count in counts.items()
            }
            return {**turns, **numbers}

        skipped = [share + self._added(layer.products, layer.scope) for share in saved]
        path = greedy_path(works, lambda shares: layer.error(kept(shares)), max(skipped))
        return [kept(shares_at(path, works, share)) for share in skipped]

    def _turns(self, layer: SparseLayer) -> Given:
        """Return the principal axes of what leads into attention and FFN, as columns."""
        matrices = {product.matrix for product in layer.scope.of(layer.products)} - {"o", "down"}
        moments = layer.seen.second_moments
        return {f"turn_{name}": np.linalg.eigh(moments[name])[1].astype(np.float32) for name in matrices}


METHODS: Final[Mapping[str, type[SparsityMethod]]] = {method.name: method for method in (Teal, Cats, Chess, Larosa)}


def parse_methods(text: str | None, *, is_gated: bool) -> list[SparsityMethod]:
    """Return the methods with names apart by commas; None are all that fit a model.

    Raises: ConfigError for a name that is none, and for a method that wants gates of a model without.
    """
    names = [name for name, method in METHODS.items() if is_gated or not method.needs_gate]
    if text is not None:
        names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"--methods takes {', '.join(METHODS)}; got {name!r}")
        if METHODS[name].needs_gate and not is_gated:
            raise ConfigError(f"{name} cuts the gates of FFNs, and this model has none; leave it out")
    return [METHODS[name]() for name in names]

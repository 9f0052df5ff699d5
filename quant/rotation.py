"""Random rotations that are cheap to apply: a Hadamard matrix with random signs, as a product of two small matrices.

Source: QuaRot (Ashkboos et al., 2024). Paley's constructions (1933) give Hadamard matrices for most sizes of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Turn", "hadamard"]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
_CHUNK: Final = 1 << 20  # numbers turned at a time: float64 copies stay small


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The orthogonal matrix R = diag(signs) (left x right), of size n; `left` and `right` are orthogonal, x is kron."""

    signs: Doubles  # [n], each 1 or -1
    left: Doubles
    right: Doubles

    @classmethod
    def random(cls, size: int, rng: np.random.Generator) -> Self:
        """Return a random rotation. Without a Hadamard matrix of this size, its odd part is any orthogonal matrix."""
        order = next((order for order in _orders(size) if _paley(order) is not None), 0)
        if not order:
            order = size & -size
            left = np.linalg.qr(rng.standard_normal((size // order, size // order)))[0]
            return cls(_signs(size, rng), left, hadamard(order))
        power = size // order
        if order == 1:  # two factors of about the same size are the quickest
            order = 1 << (power.bit_length() // 2)
            power //= order
        return cls(_signs(size, rng), hadamard(order), hadamard(power))

    def __call__(self, array: NDArray[np.floating]) -> Floats:
        """Return the product array R [..., n], computed in float64."""
        size = len(self.signs)
        rows = array.reshape(-1, size)
        turned = np.empty(rows.shape, np.float32)
        step = max(1, _CHUNK // size)
        for start in range(0, len(rows), step):
            grid = (rows[start : start + step] * self.signs).reshape(-1, len(self.left), len(self.right))
            turned[start : start + step] = (self.left.T @ (grid @ self.right)).reshape(-1, size)
        return turned.reshape(array.shape)


def hadamard(size: int) -> Doubles:
    """Return an orthogonal matrix of entries +- 1 / sqrt(size). Raises: ValueError for a size without one."""
    for order in _orders(size):
        if (core := _paley(order)) is not None:
            doubled: Doubles = core
            while len(doubled) < size:
                doubled = np.kron(np.array([[1.0, 1], [1, -1]]), doubled).astype(np.float64)
            return np.asarray(doubled / np.sqrt(size), np.float64)
    raise ValueError(f"no Hadamard matrix of size {size} is known here")


def _orders(size: int) -> list[int]:
    """Return what is left of a size when its factors 2 are taken out, the smallest first."""
    odd = size // (size & -size)
    return [odd << power for power in range((size & -size).bit_length())]


def _paley(order: int) -> Doubles | None:
    """Return a matrix of 1 and -1 with orthogonal rows for 1, q + 1 and 2 (q + 1) with a fitting prime q."""
    if order == 1:
        return np.ones((1, 1))
    first, second = order - 1, order // 2 - 1
    if first % 4 == 3 and _is_prime(first):
        return np.eye(order) + _bordered(first, -1)
    if order % 4 == 0 and second % 4 == 1 and _is_prime(second):
        pairs, alone = np.array([[1.0, 1], [1, -1]]), np.array([[1.0, -1], [-1, -1]])
        return np.kron(_bordered(second, 1), pairs) + np.kron(np.eye(order // 2), alone)
    return None


def _bordered(prime: int, sign: int) -> Doubles:
    """Return the matrix of quadratic residues of i - j, with a border of 1 above and `sign` beside it."""
    residues = np.full(prime, -1.0)
    residues[np.arange(1, prime) ** 2 % prime] = 1
    residues[0] = 0
    matrix = np.zeros((prime + 1, prime + 1))
    matrix[0, 1:], matrix[1:, 0] = 1, sign
    numbers = np.arange(prime)
    matrix[1:, 1:] = residues[(numbers[:, None] - numbers) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _signs(size: int, rng: np.random.Generator) -> Doubles:
    return rng.choice(np.array([-1.0, 1.0]), size)

"""Ways to store each matrix: what they lose and what they cost, measured on some of its rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.threads import in_parallel
from skipstone.exporters.graph import WeightFile, rounded
from skipstone.quant import QuantizedMatrix, TensorRecipe, hessian_error, take_rows

__all__ = [
    "BLOCK_SIZES",
    "MENU",
    "REFERENCE",
    "BlankRounder",
    "Sensitive",
    "StoredOption",
    "measured_options",
    "stored_bytes",
]

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]

BLOCK_SIZES: Final = (32, 64, 128)
# In these blocks one row is multiplied as several are, bit by bit, on processors with AVX-512 VNNI. In larger ones
# texts with drafts would be plain decoding's up to near ties only.
MENU: Final = (
    *(TensorRecipe(bits=2, block_size=size, symmetric=False) for size in BLOCK_SIZES),
    *(TensorRecipe(bits=4, block_size=32, symmetric=symmetric) for symmetric in (True, False)),
    *(TensorRecipe(bits=8, block_size=size) for size in (32, 64)),
)
REFERENCE: Final = TensorRecipe(bits=4, block_size=32, symmetric=False)
"""The rule by which a matrix is rounded to see what that does to the model."""
_ROWS: Final = 512
# Without a text: how much more these matter, and those of the first and the last layer.
_FACTORS: Final = {"down": 2.0, "qkv": 2.0, "head": 4.0, "embedding": 2.0}
_END_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOption:
    """A rule for a matrix, the bytes that it takes so, and the error by that of REFERENCE, which is 1."""

    rule: TensorRecipe
    num_bytes: float
    error: float


@dataclass(slots=True)
class Sensitive:
    """A matrix, the KL of rounding it alone by REFERENCE in nats per token, and its options."""

    kl: float
    options: list[StoredOption]


def measured_options(
    name: str, matrix: Floats, hessian: Doubles | None, noise: Mapping[int, Doubles] | None = None
) -> list[StoredOption]:
    """Return all ways of the menu to store a matrix, by the error of its products, or of its weights without a Hessian.

    `noise` [K] by block size is the mean square by which the kernel's rounding moves the inputs; the products move too.
    Cost: some rows of the matrix, rounded ten times.
    """
    rows = np.unique(np.linspace(0, len(matrix) - 1, _ROWS).astype(np.int64))
    sample = np.ascontiguousarray(matrix[rows])

    def error(rule: TensorRecipe) -> tuple[QuantizedMatrix, float]:
        result = rounded(name, sample, rule)
        off = result.dequantize()
        plain = float(np.square(sample - off, dtype=np.float64).sum())
        moved = (
            0.0 if noise is None else float(np.square(sample, dtype=np.float64).sum(axis=0) @ noise[rule.block_size])
        )
        return result, plain if hessian is None else hessian_error(sample, off, hessian) + moved

    (_, whole), *found = in_parallel(error, (REFERENCE, *MENU))
    whole, share = max(whole, np.finfo(np.float64).tiny), len(matrix) / len(rows)
    return [
        StoredOption(rule=rule, num_bytes=stored_bytes(name, result) * share, error=lost / whole)
        for rule, (result, lost) in zip(MENU, found, strict=True)
    ]


def stored_bytes(name: str, matrix: QuantizedMatrix) -> int:
    """Return how many bytes a matrix of integers takes in a weight file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        with WeightFile(path) as file:
            file.add_matrices(name, lambda: [matrix], REFERENCE)
        return path.stat().st_size


class BlankRounder:
    """Gives integers of the right form, all rows of a matrix alike: a rehearsal of an export.

    It notes shapes and bytes by name and, for a model of so many layers, guesses what the model minds.
    """

    def __init__(self, num_layers: int | None = None) -> None:
        self._num_layers = num_layers
        self.shapes: dict[str, tuple[int, int]] = {}
        self.num_bytes: dict[str, int] = {}
        self.guesses: dict[str, Sensitive] = {}

    def __call__(self, name: str, matrix: Floats, rule: TensorRecipe) -> QuantizedMatrix:
        """Experts have no choice of their own: they are written, and not noted."""
        blank = take_rows(rounded(name, matrix[:1], rule), np.zeros(len(matrix), np.int64))
        assert isinstance(blank, QuantizedMatrix), "rows of integers are integers"
        if ".experts." in name:
            return blank
        self.shapes[name], self.num_bytes[name] = blank.shape, stored_bytes(name, blank)
        if self._num_layers is not None:
            self.guesses[name] = Sensitive(_guess(name, self._num_layers), measured_options(name, matrix, None))
        return blank


def _guess(name: str, num_layers: int) -> float:
    """Return how much a model minds that a matrix is rounded, beside others: an equal share of each matrix's power."""
    words = name.split(".")
    is_end = words[0] == "layers" and int(words[1]) in (0, num_layers - 1)
    factors = [factor for part, factor in _FACTORS.items() if part in words]
    return max(factors, default=1.0) * (_END_FACTOR if is_end else 1.0)

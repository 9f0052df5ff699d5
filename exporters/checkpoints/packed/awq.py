"""The AWQ format of "gemm" kernels: words along the rows of a matrix, eight integers in an order of their own.

Shapes: `qweight` [K, N / 8], `qzeros` [G, N / 8], `scales` [G, N]. From its lowest bits, a word holds the rows
0, 2, 4, 6, 1, 3, 5, 7 of its eight. Groups of columns follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import UnsupportedModel
from skipstone.exporters.checkpoints.packed.groups import (
    ADVICE,
    GroupedMatrix,
    PackedSizes,
    consecutive_groups,
    group_size_in,
    piece_shapes,
    read_words,
    require_fit,
    require_groups,
)
from skipstone.exporters.checkpoints.tensors import StoredTensors
from skipstone.quant import unpack

__all__ = ["AwqFormat"]

_BITS: Final = 4
_PLACES: Final = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])  # of each row in its word


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqFormat:
    """How one checkpoint lays out its matrices: in groups of `group_size` columns; None is one group."""

    group_size: int | None

    @property
    def kind(self) -> str:
        """What the integers are called."""
        return "AWQ"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What quantization_config says. Raises: UnsupportedModel for another format of the integers, by name."""
        keys = ("version", "format", "checkpoint_format")
        version = str(next((settings[key] for key in keys if settings.get(key)), "gemm")).lower()
        found = {
            "version": version,
            "bits": settings.get("bits", _BITS),
            "zero_point": settings.get("zero_point", True),
            "backend": "llm-awq" if settings.get("backend") == "llm-awq" else "autoawq",
        }
        for option, supported in {"version": "gemm", "bits": _BITS, "zero_point": True, "backend": "autoawq"}.items():
            if found[option] != supported:
                raise UnsupportedModel(f"awq: {option} {found[option]!r} is not supported, only {supported}: {ADVICE}")
        return cls(group_size=group_size_in(settings))

    def sizes(self, tensors: StoredTensors, stem: str) -> PackedSizes:
        """What the shapes tell. Raises: CheckpointError when they do not fit."""
        (columns, words), points, (groups, rows) = piece_shapes(tensors, stem)
        require_fit(tensors, stem, fits=words * len(_PLACES) == rows and points == (groups, words))
        sizes = PackedSizes(bits=_BITS, rows=rows, columns=columns, groups=groups)
        require_groups(stem, sizes, self.group_size)
        return sizes

    def remarks(self, tensors: StoredTensors, stem: str) -> tuple[str, ...]:
        """None: there is one version."""
        return ()

    def read(self, tensors: StoredTensors, stem: str) -> GroupedMatrix:
        """One matrix. Raises: CheckpointError."""
        sizes = self.sizes(tensors, stem)
        return GroupedMatrix(
            values=_integers(read_words(tensors, f"{stem}.qweight")).T,
            zero_points=_integers(read_words(tensors, f"{stem}.qzeros")).T,
            scales=tensors.read(f"{stem}.scales", (sizes.groups, sizes.rows)).T,
            groups=consecutive_groups(sizes.columns, self.group_size),
            bits=_BITS,
        )


def _integers(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """[X, N / 8] words to [X, N] integers."""
    num_rows, num_words = words.shape
    places = unpack(words.view(np.uint8), _BITS, num_words * len(_PLACES)).reshape(num_rows, num_words, -1)
    return places[..., _PLACES].reshape(num_rows, -1)

"""The GPTQ format: words along the columns of a matrix, and columns of a group wherever `g_idx` puts them.

Shapes: `qweight` [K * bits / 32, N], `qzeros` [G, N * bits / 32], `scales` [G, N], `g_idx` [K]. The first integer of a
word is in its lowest bits. The pieces tell the bits, so each matrix may have its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.packed.groups import (
    ADVICE,
    WORD_BITS,
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

__all__ = ["GptqFormat"]

_BITS: Final = (4, 8)
_VERSIONS: Final = ("gptq", "gptq_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqFormat:
    """How one checkpoint lays out its matrices.

    `group_size` is for matrices without `g_idx`, whose groups follow each other; None is one group.
    `stores_minus_one`: version 1 stores zero points minus 1. `borrows`: GPTQModel subtracts from whole words, so that a
    zero point of 0 borrows from its neighbour, and adding to whole words gives it back; other programs lost it.
    `symmetric`: all zero points stand in the middle, so where one version alone can mean that, the label counts less.
    """

    group_size: int | None
    stores_minus_one: bool
    borrows: bool
    symmetric: bool = False

    @property
    def kind(self) -> str:
        """What the integers are called."""
        return "GPTQ"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """What quantization_config says. Raises: UnsupportedModel for another format of the integers, by name."""
        version = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
        if settings.get("is_marlin_format"):
            version = "marlin"
        if version not in _VERSIONS:
            raise UnsupportedModel(f"gptq: format {version!r} is not supported, only gptq and gptq_v2: {ADVICE}")
        dtype = settings.get("pack_dtype") or "int32"
        if dtype != "int32":
            raise UnsupportedModel(f"gptq: pack_dtype {dtype!r} is not supported, only int32: {ADVICE}")
        meta = settings.get("meta")
        return cls(
            group_size=group_size_in(settings),
            stores_minus_one=version == "gptq",
            borrows=isinstance(meta, Mapping) and "gptqmodel" in str(meta.get("quantizer")).lower(),
            symmetric=settings.get("sym", True) is True,
        )

    def sizes(self, tensors: StoredTensors, stem: str) -> PackedSizes:
        """What the shapes tell. Raises: CheckpointError when they do not fit; UnsupportedModel for other bits."""
        (words, rows), (groups, point_words), scales = piece_shapes(tensors, stem)
        bits, rest = divmod(point_words * WORD_BITS, rows)
        require_fit(tensors, stem, fits=scales == (groups, rows) and rest == 0)
        if bits not in _BITS:
            raise UnsupportedModel(f"{stem}: {bits} bits per weight are not supported, only 4 and 8: {ADVICE}")
        sizes = PackedSizes(bits=bits, rows=rows, columns=words * WORD_BITS // bits, groups=groups)
        if f"{stem}.g_idx" not in tensors.names():
            require_groups(stem, sizes, self.group_size)
        return sizes

    def remarks(self, tensors: StoredTensors, stem: str) -> tuple[str, ...]:
        """Where the zero points of one matrix contradict the version. Cost: reads them."""
        sizes = self.sizes(tensors, stem)
        stored = unpack(read_words(tensors, f"{stem}.qzeros").view(np.uint8), sizes.bits, sizes.rows)
        if not self._is_middle(stored, sizes.bits) or self.stores_minus_one == (stored[0, 0] < _middle(sizes.bits)):
            return ()
        said, meant = _VERSIONS if self.stores_minus_one else _VERSIONS[::-1]
        found = f"zero points of {stored[0, 0]} with sym only {meant} can mean: read so"
        return (f"quantization_config says format {said}, but {found}",)

    def read(self, tensors: StoredTensors, stem: str) -> GroupedMatrix:
        """One matrix. Raises: CheckpointError, UnsupportedModel for a zero point that cannot be told."""
        sizes = self.sizes(tensors, stem)
        words = read_words(tensors, f"{stem}.qweight")
        return GroupedMatrix(
            values=unpack(np.ascontiguousarray(words.T).view(np.uint8), sizes.bits, sizes.columns),
            zero_points=self._zero_points(tensors, stem, sizes).T,
            scales=tensors.read(f"{stem}.scales", (sizes.groups, sizes.rows)).T,
            groups=self._groups(tensors, stem, sizes),
            bits=sizes.bits,
        )

    def _zero_points(self, tensors: StoredTensors, stem: str, sizes: PackedSizes) -> NDArray[np.uint8]:
        words = read_words(tensors, f"{stem}.qzeros")
        stored = unpack(words.view(np.uint8), sizes.bits, sizes.rows)
        if self._is_middle(stored, sizes.bits):
            return np.full_like(stored, _middle(sizes.bits))
        if not self.stores_minus_one:
            return stored
        highest = (1 << sizes.bits) - 1
        if not self.borrows and (stored == highest).any():
            raise UnsupportedModel(
                f"{stem}: a stored zero point of {highest} means 0 or {highest + 1} in format gptq, not told which: "
                "take the checkpoint in format gptq_v2, or as it was before quantization"
            )
        words += np.uint32(0xFFFFFFFF // highest)  # a 1 for each integer of a word
        return unpack(words.view(np.uint8), sizes.bits, sizes.rows)

    def _is_middle(self, stored: NDArray[np.uint8], bits: int) -> bool:
        """Whether stored zero points stand in the middle in one of the versions, as symmetric ones do."""
        return (
            self.symmetric
            and stored[0, 0] in (_middle(bits) - 1, _middle(bits))
            and bool((stored == stored[0, 0]).all())
        )

    def _groups(self, tensors: StoredTensors, stem: str, sizes: PackedSizes) -> NDArray[np.int64]:
        name = f"{stem}.g_idx"
        if name not in tensors.names():
            return consecutive_groups(sizes.columns, self.group_size)
        groups = tensors.read_integers(name, (sizes.columns,)).astype(np.int64)
        if not np.array_equal(np.unique(groups), np.arange(sizes.groups)):
            raise CheckpointError(
                f"tensor {name!r} names other groups than the {sizes.groups} with scales: fetch the checkpoint again"
            )
        return groups


def _middle(bits: int) -> int:
    return 1 << (bits - 1)

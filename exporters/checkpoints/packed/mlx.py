"""The format of MLX: groups of neighbouring columns, each with a scale and an offset that is a number.

Shapes: `weight` [N, K * bits / 32] in words, `scales` and `biases` [N, G]. A weight is scale * integer + bias. The bits
of a row follow each other, the lowest of an integer first. Our blocks hold the same codes on a grid as fine or finer,
with an integer zero point and what is left of the bias.
Source: the documentation of mlx.core.quantize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.packed.groups import ADVICE, BLOCK_SIZES, WORD_BITS
from skipstone.exporters.checkpoints.tensors import Coding, StoredTensors, check_shape
from skipstone.quant import AffineRows, QuantizedMatrix

__all__ = ["MlxTensors", "mlx_stems"]

Codes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_BITS: Final = (2, 3, 4, 5, 6, 8)
_GROUP_SIZE: Final = 64  # where the settings do not say
_PIECES: Final = ("scales", "biases")
_CHUNK: Final = 1 << 18  # weights that are taken apart at a time
_SAMPLE: Final = 1 << 14


def mlx_stems(tensors: StoredTensors) -> list[str]:
    """The names, without ".weight", of the matrices that MLX quantized."""
    names = tensors.names()
    stems = (
        name.removesuffix(".weight") for name in names if name.endswith(".weight") and tensors.dtype(name) == "U32"
    )
    return sorted(stem for stem in stems if f"{stem}.scales" in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    rows: int  # N
    groups: int  # G
    group_size: int
    bits: int

    @property
    def columns(self) -> int:
        """K."""
        return self.groups * self.group_size

    @property
    def block_size(self) -> int | None:
        """The largest of our blocks of which a group is a whole number; None where none is."""
        return next((size for size in BLOCK_SIZES if self.group_size % size == 0), None)


class MlxTensors:
    """A TensorSource: quantized matrices [N, K] as numbers, and every plain tensor as it is."""

    def __init__(self, tensors: StoredTensors, settings: object) -> None:
        """Check the shapes of all pieces, read none.

        Raises: UnsupportedModel for other kinds of integers, by name; CheckpointError for pieces that do not fit.
        """
        self._tensors, stems = tensors, mlx_stems(tensors)
        if not isinstance(settings, Mapping):
            raise CheckpointError(
                f"{stems[0]} is quantized as MLX does it, but config.json has no quantization with group_size and "
                "bits: fetch the checkpoint again"
            )
        _require_affine(tensors, settings, stems)
        self._sizes = {f"{stem}.weight": _sizes(tensors, settings, stem) for stem in stems}
        self._names = tensors.names() - {f"{stem}.{piece}" for stem in stems for piece in _PIECES}

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return self._tensors.num_bytes

    def names(self) -> frozenset[str]:
        """The names of all tensors, a quantized matrix as one."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor. Raises CheckpointError when there is no such tensor."""
        if (sizes := self._sizes.get(name)) is not None:
            return sizes.rows, sizes.columns
        return self._tensors.shape(name)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array; of a quantized matrix, the numbers that its integers stand for.

        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """
        if (sizes := self._sizes.get(name)) is None:
            return self._tensors.read(name, shape)
        check_shape(name, (sizes.rows, sizes.columns), shape)
        return self._numbers(name, sizes.rows)

    @property
    def num_rounded(self) -> int:
        """How many matrices lie in groups that are no blocks of ours: they are read as numbers, and rounded again."""
        return sum(sizes.block_size is None for sizes in self._sizes.values())

    def is_quantized(self, name: str) -> bool:
        """Whether the tensor is a matrix whose groups can be carried over."""
        return name in self._sizes and self._sizes[name].block_size is not None

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """The integers of one matrix [N, K]. Raises: as `read` does. Cost: the matrix, its words and some megabytes."""
        if not self.is_quantized(name):
            return self._tensors.read_quantized(name, shape)
        sizes = self._sizes[name]
        check_shape(name, (sizes.rows, sizes.columns), shape)
        return self._carried(name, sizes.rows)

    def coding(self, name: str) -> Coding:
        """Groups have numbers for zero points, ours integers and offsets."""
        return Coding(kind=f"MLX {self._sizes[name].bits}-bit", is_native=False, is_exact=False)

    def sample(self, name: str) -> tuple[QuantizedMatrix, NDArray[np.float32]]:
        """Its first rows as integers, and their numbers. Raises: as `read` does."""
        sizes = self._sizes[name]
        num_rows = max(1, min(sizes.rows, _SAMPLE // sizes.columns))
        return self._carried(name, num_rows), self._numbers(name, num_rows)

    def _carried(self, name: str, num_rows: int) -> QuantizedMatrix:
        sizes = self._sizes[name]
        assert sizes.block_size is not None
        for bits in sorted({4 if sizes.bits <= 4 else 8, 8}):
            rows = AffineRows(
                (num_rows, sizes.columns), bits=bits, block_size=sizes.block_size, highest=2**sizes.bits - 1
            )
            for part, codes, scales, biases in self._parts(name, num_rows):
                repeats = sizes.group_size // sizes.block_size
                steps, lowest = (np.repeat(array, repeats, axis=1) for array in (scales, biases))
                rows.fill(part, codes.reshape(*steps.shape, sizes.block_size), steps, lowest)
            if rows.fits:
                break
        return rows.matrix()

    def _numbers(self, name: str, num_rows: int) -> NDArray[np.float32]:
        sizes = self._sizes[name]
        numbers = np.empty((num_rows, sizes.groups, sizes.group_size), np.float32)
        for part, codes, scales, biases in self._parts(name, num_rows):
            numbers[part] = codes.reshape(numbers[part].shape)
            numbers[part] *= scales[:, :, None]
            numbers[part] += biases[:, :, None]
        return numbers.reshape(num_rows, sizes.columns)

    def _parts(self, name: str, num_rows: int) -> Iterator[tuple[slice, Codes, Floats, Floats]]:
        """Yield some of the first rows at a time: which, their codes [R, K], scales and biases, both [R, G]."""
        sizes, stem = self._sizes[name], name.removesuffix(".weight")
        scales, biases = (self._tensors.read(f"{stem}.{piece}", (sizes.rows, sizes.groups)) for piece in _PIECES)
        words = self._tensors.read_integers(name, self._tensors.shape(name))
        step = max(1, _CHUNK // sizes.columns)
        for start in range(0, num_rows, step):
            rows = slice(start, min(start + step, num_rows))
            yield rows, _integers(words[rows], sizes.bits), scales[rows], biases[rows]


def _require_affine(tensors: StoredTensors, settings: Mapping[str, Any], stems: list[str]) -> None:
    mode = settings.get("mode") or "affine"
    if mode == "affine" and any(f"{stem}.biases" not in tensors.names() for stem in stems):
        mode = "without biases"
    if mode != "affine":
        raise UnsupportedModel(f"mlx: quantization {mode!r} is not supported, only affine: {ADVICE}")
    if (stacked := next((stem for stem in stems if ".switch_mlp." in stem), None)) is not None:
        raise UnsupportedModel(f"mlx: {stacked} holds all experts of a layer, which is not supported: {ADVICE}")


def _sizes(tensors: StoredTensors, settings: Mapping[str, Any], stem: str) -> _Sizes:
    """What settings and shapes tell; a matrix may have settings of its own, and the shapes know the bits."""
    own = settings.get(stem)
    stated = {**settings, **own} if isinstance(own, Mapping) else settings
    group_size = stated.get("group_size", _GROUP_SIZE)
    words, scales, biases = (tensors.shape(f"{stem}.{piece}") for piece in ("weight", *_PIECES))
    fits = (
        type(group_size) is int and group_size > 0 and len(words) == 2 and scales == biases == (words[0], *scales[1:])
    )
    columns = scales[-1] * group_size if fits and len(scales) == 2 else 0
    bits, rest = divmod(words[-1] * WORD_BITS, columns) if columns else (0, 1)
    if rest or bits not in _BITS:
        raise CheckpointError(
            f"{stem}: weight {list(words)}, scales {list(scales)} and biases {list(biases)} in groups of "
            f"{group_size!r} are not integers of {', '.join(map(str, _BITS))} bits: fetch the checkpoint again"
        )
    return _Sizes(rows=words[0], groups=scales[1], group_size=group_size, bits=bits)


def _integers(words: NDArray[np.integer[Any]], bits: int) -> Codes:
    """[R, W] words to [R, K] integers; eight of them lie in as many bytes as they have bits."""
    stored = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return stored
    octets = np.zeros((len(words), stored.shape[1] // bits, bits + 1), np.uint8)
    octets[..., :bits] = stored.reshape(len(words), -1, bits)
    codes = np.empty((*octets.shape[:2], 8), np.uint8)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        two = octets[..., byte].astype(np.uint16) | octets[..., byte + 1].astype(np.uint16) << np.uint16(8)
        codes[..., place] = two >> np.uint16(shift) & np.uint16(2**bits - 1)
    return codes.reshape(len(words), -1)

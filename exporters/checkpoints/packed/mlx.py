"""The format of MLX: groups of neighbouring columns, each with a scale and an offset that is a number.

Shapes: `weight` [N, K * bits / 32] in words, `scales` and `biases` [N, G]. A weight is scale * integer + bias. The bits
of a row follow each other, the lowest of an integer first. Offsets are no integers, so matrices are read as numbers.
Source: the documentation of mlx.core.quantize.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.packed.groups import ADVICE, WORD_BITS
from skipstone.exporters.checkpoints.tensors import StoredTensors, check_shape
from skipstone.quant import QuantizedMatrix

__all__ = ["MlxTensors", "mlx_stems"]

_BITS: Final = (2, 3, 4, 5, 6, 8)
_GROUP_SIZE: Final = 64  # where the settings do not say
_PIECES: Final = ("scales", "biases")
_CHUNK: Final = 1 << 18  # weights that are taken apart at a time: a byte for each of their bits


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
        stem = name.removesuffix(".weight")
        scales, biases = (self._tensors.read(f"{stem}.{piece}", (sizes.rows, sizes.groups)) for piece in _PIECES)
        words = self._tensors.read_integers(name, self._tensors.shape(name))
        numbers = np.empty((sizes.rows, sizes.groups, sizes.group_size), np.float32)
        step = max(1, _CHUNK // sizes.columns)
        for start in range(0, sizes.rows, step):
            rows = slice(start, start + step)
            numbers[rows] = _integers(words[rows], sizes.bits).reshape(numbers[rows].shape)
        numbers *= scales[:, :, None]
        numbers += biases[:, :, None]
        return numbers.reshape(sizes.rows, sizes.columns)

    @property
    def num_rounded(self) -> int:
        """How many matrices are read as numbers, and rounded again."""
        return len(self._sizes)

    def is_quantized(self, name: str) -> bool:
        """Never: no integers are carried over."""
        return False

    def read_quantized(self, name: str, shape: tuple[int, int]) -> QuantizedMatrix:
        """Not to be called, as no tensor `is_quantized`."""
        return self._tensors.read_quantized(name, shape)


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


def _integers(words: NDArray[np.integer[Any]], bits: int) -> NDArray[np.uint8]:
    """[R, W] words to [R, K] integers."""
    row_bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    return np.packbits(row_bits.reshape(len(words), -1, bits), axis=-1, bitorder="little")[..., 0]

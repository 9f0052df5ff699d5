"""The settings of a GGUF file, each asked for by name and type; what nobody asked for is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints.gguf.file import GgufFile, StoredBlocks
from skipstone.exporters.checkpoints.gguf.tensors import GgufTensor, GgufTensors

__all__ = ["Settings"]

# Settings that say nothing about the mathematics.
_IDLE: Final = frozenset({"vocab_size", "rope.scaling.finetuned", "tensor_data_layout"})
_WANTED: Final[Mapping[type, str]] = {
    **{int: "a whole number", float: "a finite number"},
    **{bool: "true or false", str: "a text"},
}
T = TypeVar("T", int, float, bool, str)


class Settings:
    """The settings of a file that stand under its architecture's name; remembers which were asked for."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._asked = set(_IDLE)
        if file.metadata.get("split.count", 1) not in (0, 1):
            raise UnsupportedModel(f"{file.path}: one part of several: join them with llama-gguf-split --merge")
        architecture = file.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(f"{file.path}: lacks general.architecture: convert the checkpoint again")
        self.architecture = architecture

    def raw(self, key: str) -> Any:
        """The value of a key as it stands, None where it is missing."""
        self._asked.add(key)
        return self.file.metadata.get(f"{self.architecture}.{key}")

    def shared(self, key: str) -> Any:
        """The value of a key; where layers have one each, the one of all."""
        value = self.raw(key)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            what = f"{self.architecture}.{key} differs between layers, which is not supported"
            raise UnsupportedModel(f"{self.file.path}: {what}")
        return value[0]

    def get(self, key: str, otherwise: T) -> T:
        """The value of a key, of the type of `otherwise`."""
        value = self.shared(key)
        return otherwise if value is None else self._checked(key, value, type(otherwise))

    def required(self, key: str, kind: type[T]) -> T:
        """The value of a key that a file must have."""
        value = self.shared(key)
        if value is None:
            raise CheckpointError(f"{self.file.path}: lacks {self.architecture}.{key}: convert the checkpoint again")
        return self._checked(key, value, kind)

    def size(self, key: str, otherwise: int | None = None) -> int:
        """A number of things that must be there."""
        value = self.required(key, int) if otherwise is None else self.get(key, otherwise)
        if value < 1:
            raise self._odd(key, value, "a positive whole number")
        return value

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not math.isfinite(value)):
            raise self._odd(key, value, _WANTED[kind])
        return kind(value)

    def _odd(self, key: str, value: object, wanted: str) -> CheckpointError:
        what = f"{self.architecture}.{key} must be {wanted}, found {value!r}"
        return CheckpointError(f"{self.file.path}: {what}: the file is damaged, fetch it again")

    def require(self, key: str, wanted: tuple[object, ...]) -> None:
        """Raise UnsupportedModel unless the key is missing or has one of the values."""
        value = self.shared(key)
        if value is not None and value not in wanted:
            raise UnsupportedModel(f"{self.file.path}: {self.architecture}.{key} = {value!r} is not supported")

    def has(self, tensor: str) -> bool:
        """Whether the first layer has a tensor."""
        return f"blk.0.{tensor}" in self.file.tensors

    def stored(self, tensor: str) -> StoredBlocks:
        """Where a tensor lies. Raises: CheckpointError when it is missing."""
        if tensor not in self.file.tensors:
            raise CheckpointError(f"{self.file.path}: has no tensor {tensor!r}: convert the checkpoint again")
        return self.file.tensors[tensor]

    def numbers(self, tensor: str) -> list[float]:
        """A small tensor as a list. Raises: CheckpointError when it is missing or damaged."""
        blocks = self.stored(tensor)
        numbers: list[float] = GgufTensors({tensor: GgufTensor(blocks=blocks)}).read(tensor, blocks.shape).tolist()
        return numbers

    def check_all_asked(self) -> None:
        """Raise UnsupportedModel for a setting that nobody asked for: it could change the mathematics."""
        start = f"{self.architecture}."
        keys = {key.removeprefix(start) for key in self.file.metadata if key.startswith(start)}
        if unknown := sorted(keys - self._asked):
            raise UnsupportedModel(
                f"{self.file.path}: {self.architecture}.{unknown[0]} is not supported: "
                "export the checkpoint that the file was made from"
            )

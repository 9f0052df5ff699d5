"""LoRA adapters merged into the weights of their base model, one tensor at a time, as these are read.

Shapes: a matrix [out, in] with A [r, in] and B [out, r] becomes base + scale * B @ A. Embeddings, and the matrices of
GPT-2, lie the other way round, [in, out]. Source: LoRA (Hu et al., 2021); DoRA (Liu et al., 2024), section 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, TensorSource
from skipstone.exporters.families import Architecture
from skipstone.exporters.transforms.mlx_adapter import is_mlx_adapter, open_mlx_adapter
from skipstone.exporters.transforms.peft_adapter import ADVICE, Adapter
from skipstone.exporters.transforms.transform import ChangedTensors, Transform

__all__ = ["Lora", "MergedTensors", "merged"]


@dataclass(frozen=True, slots=True)
class Lora(Transform):
    """Merges the adapter in `folder`, of PEFT or of mlx-lm, into the weights of its base model."""

    folder: Path

    def __str__(self) -> str:
        return f"lora {self.folder}"

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise CheckpointError for a damaged adapter or one of another model, UnsupportedModel for another kind."""
        self.change(architecture, tensors)

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, MergedTensors]:
        """Return the same architecture, the adapter added to its tensors."""
        return architecture, merged(tensors, self.folder, tied=_tied(architecture))

    def ensures(self, architecture: Architecture, tensors: TensorSource) -> None:
        """Raise UnsupportedModel when embedding and head differ now, where they are one matrix.

        An adapter may change both of them alike, or none; to compare them they are read, and no other weight is.
        """
        tied = _tied(architecture)
        if tied is not None and isinstance(tensors, MergedTensors):
            _require_alike(tensors, tied)


def _tied(architecture: Architecture) -> tuple[str, str] | None:
    """Return the names of embedding and head where they are one matrix."""
    names = architecture.names
    return (names["embedding"], names["head"]) if architecture.tied_embedding else None


def merged(source: TensorSource, folder: Path, *, tied: tuple[str, str] | None) -> MergedTensors:
    """The tensors of a base model, with the adapter in `folder` added to them; no weight is read.

    `tied` are the names of embedding and head where they are one matrix, else None.
    Raises: CheckpointError for an adapter that is damaged or of another model; UnsupportedModel for what cannot be
    merged, by name.
    """
    adapter = open_mlx_adapter(folder) if is_mlx_adapter(folder) else Adapter.open(folder)
    changes: dict[str, _Change] = {}
    for name, parts in adapter.parts.items():
        target = _target(name, parts, source.names(), tied)
        if target in changes:
            raise CheckpointError(f"{folder}: two names of the adapter mean the tensor {target!r}: save it again")
        base = tied[0] if tied is not None and target not in source.names() else target
        changes[target] = _change(adapter, name, base, source)
    return MergedTensors(source, adapter.tensors, changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What is done to the tensor `base`; the texts are names in the adapter, None where it has no such part."""

    base: str
    new: str | None
    factors: tuple[str, str] | None  # A and B
    magnitude: str | None
    offset: str | None
    scale: float
    is_transposed: bool  # the matrix lies [in, out]


class MergedTensors(ChangedTensors):
    """The tensors of the base model, the changed ones merged each time that they are read."""

    def __init__(self, source: TensorSource, adapter: StoredTensors, changes: Mapping[str, _Change]) -> None:
        super().__init__(source)
        self._adapter, self._changes = adapter, changes

    @property
    def changed(self) -> frozenset[str]:
        """The names of the tensors that the adapter changes; none of them is stored as integers."""
        return frozenset(self._changes)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as a new C-contiguous array; merging takes as much memory again.

        Raises: CheckpointError when it is missing, has another shape or dtype, or holds NaN or infinite values.
        """
        if name not in self._changes:
            return self._source.read(name, shape)
        change = self._changes[name]
        weight = self._source.read(change.base, shape) if change.new is None else self._adapter.read(change.new, shape)
        # What overflows here is refused below.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._apply(change, weight)
        if not np.isfinite(weight).all():
            raise CheckpointError(f"tensor {name!r} holds NaN or infinite values once the adapter is merged")
        return weight

    def _apply(self, change: _Change, weight: NDArray[np.float32]) -> None:
        outputs = weight.T if change.is_transposed else weight
        if change.factors is not None:
            a, b = (self._whole(name) for name in change.factors)
            outputs += np.matmul(b * np.float32(change.scale), a)
        if change.magnitude is not None:
            outputs *= (self._whole(change.magnitude) / np.linalg.norm(outputs, axis=1))[:, None]
        if change.offset is not None:
            outputs += np.float32(change.scale) * self._whole(change.offset)

    def _whole(self, name: str) -> NDArray[np.float32]:
        return self._adapter.read(name, self._adapter.shape(name))


def _target(name: str, parts: Mapping[str, str], names: Collection[str], tied: tuple[str, str] | None) -> str:
    """The tensor of the model that the adapter calls `name`; a tied head need not be in the checkpoint.

    The checkpoint may have been saved without the first word of its names, such as `transformer`; and of a multimodal
    model, adapters and checkpoints of different years put `language_model` at different places.
    """
    moved = name.replace("model.language_model.", "language_model.model.", 1)
    for candidate in (name, name.partition(".")[2], moved):
        if candidate in names or (tied is not None and candidate == tied[1]):
            return candidate
    raise CheckpointError(
        f"the adapter's tensor {min(parts.values())!r} changes {name!r}, which the checkpoint does not have: "
        f"take the adapter of this model, or {ADVICE}"
    )


def _change(adapter: Adapter, name: str, base: str, source: TensorSource) -> _Change:
    """The change of `base` that the adapter calls `name`, the shapes of its parts checked."""
    if source.is_quantized(base):
        raise UnsupportedModel(
            f"an adapter cannot be added to {base!r}, which is stored as integers: "
            "take the checkpoint as it was before quantization"
        )
    parts, shape = adapter.parts[name], source.shape(base)
    factors = _factors(adapter, name)
    change = _Change(
        base=base,
        new=parts.get("new"),
        factors=factors,
        magnitude=parts.get("magnitude"),
        offset=parts.get("offset"),
        scale=adapter.scale(name),
        is_transposed=factors is not None and ("embedding_a" in parts or adapter.is_transposed),
    )
    _check_shapes(adapter, name, change, shape)
    return change


def _factors(adapter: Adapter, name: str) -> tuple[str, str] | None:
    """The names of A and B. Raises: CheckpointError when only one is there, or a magnitude is missing or too much."""
    parts = adapter.parts[name]
    a, b = (parts.get(factor, parts.get(f"embedding_{factor}")) for factor in "ab")
    if (a is None) != (b is None):
        raise CheckpointError(f"the adapter has only one of lora_A and lora_B for {name!r}: save it again")
    if ("magnitude" in parts) != (adapter.has_magnitudes and a is not None):
        found = "one" if "magnitude" in parts else "none"
        raise CheckpointError(
            f"the adapter has {found} lora_magnitude_vector for {name!r}, with use_dora = {adapter.has_magnitudes}: "
            "adapter_config.json and the weights do not belong together"
        )
    return None if a is None or b is None else (a, b)


def _check_shapes(adapter: Adapter, name: str, change: _Change, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless all parts fit a tensor of this shape and each other."""
    wanted = {change.new: shape, change.offset: shape}
    if change.factors is not None:
        if len(shape) != 2:
            raise UnsupportedModel(f"an adapter cannot be added to {change.base!r} {list(shape)}, which is no matrix")
        (outputs, inputs), (a, b) = shape[::-1] if change.is_transposed else shape, change.factors
        rank = adapter.rank(name)
        wanted |= {a: (rank, inputs), b: (outputs, rank), change.magnitude: (outputs,)}
    for part, size in wanted.items():
        if part is not None and adapter.tensors.shape(part) != size:
            raise CheckpointError(
                f"the adapter's tensor {part!r} has shape {list(adapter.tensors.shape(part))}, wanted {list(size)} for "
                f"{change.base!r} {list(shape)} and the rank {adapter.rank(name)}: take the adapter of this model"
            )


def _require_alike(tensors: MergedTensors, tied: tuple[str, str]) -> None:
    """Raise UnsupportedModel when the adapter makes embedding and head differ."""
    changed = tensors.changed & {*tied}
    if not changed:
        return
    advice = "give the base model a head of its own, with tie_word_embeddings = false, merge there, and export that"
    if len(changed) == 1:
        (other,) = {*tied} - changed
        raise UnsupportedModel(
            f"the adapter changes {min(changed)!r} and not {other!r}, but in this model they are one matrix: {advice}"
        )
    shape = tensors.shape(tied[0])
    embedding, head = (tensors.read(name, shape) for name in tied)
    largest = np.abs(embedding).max()
    embedding -= head
    if np.abs(embedding).max() > 1e-5 * largest:
        raise UnsupportedModel(f"the adapter makes {tied[0]!r} and {tied[1]!r} differ, which are one matrix: {advice}")

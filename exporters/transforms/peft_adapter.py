"""A LoRA adapter as PEFT saves it: its settings, and which of its tensors belongs to which tensor of the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, open_weights, optional_json

__all__ = ["ADVICE", "SETTINGS", "Adapter"]

SETTINGS: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."
# What the name of a tensor ends in: its part in the change, and what it changes in its module.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "lora_A.weight": ("a", "weight"),
    "lora_B.weight": ("b", "weight"),
    "lora_B.bias": ("offset", "bias"),
    "lora_embedding_A": ("embedding_a", "weight"),
    "lora_embedding_B": ("embedding_b", "weight"),
    "lora_magnitude_vector": ("magnitude", "weight"),
    "lora_magnitude_vector.weight": ("magnitude", "weight"),
}
# Options under which base + scale * B @ A is not what the model computes.
_REFUSED: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
_UNCHANGED_BASE: Final = ("gaussian", "eva", "mica", "orthogonal")  # the others train on a changed base
ADVICE: Final = "merge it with PEFT's merge_and_unload, and export the result"

_Value = TypeVar("_Value")


# A group or a repeat that is repeated, or a reference back: what takes time without end on some names.
_ENDLESS: Final = re.compile(r"\)[*+{?]|[*+}][*+{]|\\[1-9]|\(\?[^:]")
_REPEATS: Final = re.compile(r"[*+{]")
_MOST_REPEATS: Final = 3
_TOO_LARGE: Final = 1 << 31  # for a rank or an alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter, opened; no weight is read.

    `parts` holds, by the name of a tensor of the model, the names of the adapter's tensors that change it: `a`, `b`
    (`embedding_a`, `embedding_b`), `magnitude`, `offset`, or `new`, which takes the tensor's place.
    """

    folder: Path
    settings: Mapping[str, Any]
    tensors: StoredTensors
    parts: Mapping[str, Mapping[str, str]]

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """The adapter in a folder.

        Raises: CheckpointError when it is none, or damaged; UnsupportedModel for what cannot be merged, by name.
        """
        settings = optional_json(folder / SETTINGS)
        if not settings:
            raise CheckpointError(
                f"{folder} has no {SETTINGS}: pass the folder of a PEFT adapter, or of one that mlx-lm wrote"
            )
        _check_settings(settings)
        tensors = open_weights(folder, safetensors="adapter_model.safetensors", torch="adapter_model.bin")
        return cls(folder=folder, settings=settings, tensors=tensors, parts=_parts(tensors))

    @property
    def has_magnitudes(self) -> bool:
        """Whether the rows of a changed matrix have lengths of their own (DoRA)."""
        return bool(self.settings.get("use_dora"))

    @property
    def is_transposed(self) -> bool:
        """Whether the matrices of the model lie [inputs, outputs], where their shape does not tell."""
        return bool(self.settings.get("fan_in_fan_out"))

    def rank(self, name: str) -> int:
        """The inner size of the change of one tensor. Raises: CheckpointError when that is no size."""
        rank = _patterned(self.settings.get("rank_pattern"), name, self.settings.get("r"))
        if type(rank) is not int or not 1 <= rank < _TOO_LARGE:
            raise CheckpointError(f"{SETTINGS}: the rank of {name!r} must be a positive whole number, found {rank!r}")
        return rank

    def scale(self, name: str) -> float:
        """What the change of one tensor is multiplied by: alpha / r, or alpha / sqrt(r). Raises: as `rank`."""
        alpha = _patterned(self.settings.get("alpha_pattern"), name, self.settings.get("lora_alpha"))
        if not isinstance(alpha, int | float) or not abs(alpha) < _TOO_LARGE:
            raise CheckpointError(f"{SETTINGS}: the alpha of {name!r} must be a number, found {alpha!r}")
        rank = self.rank(name)
        return alpha / math.sqrt(rank) if self.settings.get("use_rslora") else alpha / rank


def _check_settings(settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(f"adapters of type {kind!r} are not supported, only LORA: {ADVICE}")
    for option in _REFUSED:
        if settings.get(option):
            raise UnsupportedModel(f"an adapter with {option} = {settings[option]!r} is not supported: {ADVICE}")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _UNCHANGED_BASE:
        raise UnsupportedModel(
            f"an adapter with init_lora_weights = {start!r} belongs to a changed base model: save it with "
            "path_initial_model_for_weight_conversion, as PEFT's documentation says, or merge it there"
        )


def _parts(tensors: StoredTensors) -> dict[str, dict[str, str]]:
    parts: dict[str, dict[str, str]] = {}
    for name in sorted(tensors.names()):
        target, part = _place(name)
        of_target = parts.setdefault(target, {})
        if part in of_target:
            raise CheckpointError(f"the adapter's tensors {of_target[part]!r} and {name!r} both change {target!r}")
        of_target[part] = name
    return parts


def _place(name: str) -> tuple[str, str]:
    """The tensor of the model that an adapter's tensor changes, and its part in that."""
    if not name.startswith(_PREFIX):
        raise CheckpointError(f"the adapter's tensor {name!r} has another name than PEFT gives, {_PREFIX}...")
    inner = name.removeprefix(_PREFIX)
    for ending, (part, what) in _PARTS.items():
        if inner.endswith(f".{ending}"):
            return f"{inner.removesuffix(ending)}{what}", part
    return inner.replace(".base_layer.", ".").replace(".modules_to_save.", "."), "new"


def _patterned(patterns: Mapping[str, _Value] | None, name: str, default: _Value) -> _Value:
    """The value of the first pattern that the end of a module's name matches, as PEFT does it."""
    module = name.rpartition(".")[0]
    if not isinstance(patterns, Mapping | None):
        raise CheckpointError(f"{SETTINGS}: expected patterns and their values, found {patterns!r}")
    for pattern, value in (patterns or {}).items():
        if _ENDLESS.search(pattern) or len(_REPEATS.findall(pattern)) > _MOST_REPEATS:
            raise CheckpointError(f"{SETTINGS}: {pattern!r} may never end to be matched: name the modules instead")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise CheckpointError(f"{SETTINGS}: {pattern!r} is not a pattern of names: {error}") from error
    return default

"""The recipe: how many bits each tensor gets, and what is done to a model so that it rounds well, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Self

from skipstone.quant.model_changes import RotationRecipe, ScaleRecipe
from skipstone.quant.tensor_recipe import DEFAULT_GROUP_SIZES, FAST_GROUP_SIZE, TensorRecipe, listed

__all__ = ["GROUP_SIZES", "PRECISIONS", "WIDE_GROUP_SIZE", "Recipe"]

PRECISIONS: Final = ("int4", "int4-fast", "int8", "fp32")
GROUP_SIZES: Final = (32, 64, 128)
# Of the tensors that int4 stores at 8 bits: larger blocks cost less than they lose beside those at 4.
WIDE_GROUP_SIZE: Final = 64
# Nats per token between a trained model and its bundle, several times what good exports measure (docs/quantization.md):
# beyond, something is wrong, or the model needs more bits.
_KL_BOUNDS: Final = {"int4": 0.1, "int4-fast": 0.2, "int8": 0.02}
_WIDE: Final = ("head", "embedding", "layers.*.qkv", "layers.*.o", "*altup.*")  # what int4 stores at 8 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Rules from a pattern of tensor names, such as `layers.*.down`, to a tensor recipe; the last that matches holds.

    Names: `layers.3.qkv`, `.o`, `.gate_up`, `.down`; `head`; `embedding`; in models of several streams `altup.*`,
    `layers.3.altup.*` and `per_layer_embedding`. The first rule is for `*`, so that all match. The model is turned
    first, where there is a `rotation`; then `scales` are folded. Only a recipe of 32 bits is called fp32.
    """

    name: str
    rules: tuple[tuple[str, TensorRecipe], ...]
    rotation: RotationRecipe | None = None
    scales: ScaleRecipe | None = None

    def __post_init__(self) -> None:
        if not self.rules or self.rules[0][0] != "*":
            found = f"it is for {self.rules[0][0]!r}" if self.rules else "there is none"
            raise ValueError(f"recipe {self.name!r}: the first rule must be for '*', {found}")
        if self.name == "fp32" and not self._is_float:
            raise ValueError("a recipe is called fp32 where all its rules have 32 bits; give it another name")

    @classmethod
    def named(cls, precision: str, *, group_size: int | None = None, symmetric: bool | None = None) -> Self:
        """Return the recipe called `precision`, by default with what measured best in docs/quantization.md.

        `int4`: 4 bit, with head, embedding, what leads into and out of attention and what joins streams at 8;
        `int4-fast`: 4 bit everywhere, in large groups, whose rows are rounded in pairs; `int8`; `fp32`.
        `group_size` is weights per scale, by default 32, and 64 for what int4 stores at 8 bits; `symmetric` is for all
        tensors, by default 4 bit has zero points, 8 bit not.
        Raises ValueError for an unknown precision or group size, and for options of fp32, which has no groups.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is not known; choose one of {listed(PRECISIONS)}")
        if precision == "fp32":
            if group_size is not None or symmetric is not None:
                raise ValueError("fp32 has no groups and no zero points; leave these options out")
            return cls(name=precision, rules=(("*", TensorRecipe(bits=32)),))
        if group_size is not None and group_size not in GROUP_SIZES:
            raise ValueError(f"group size {group_size} is not known; choose one of {listed(GROUP_SIZES)}")
        sizes = {4: FAST_GROUP_SIZE} if precision == "int4-fast" else DEFAULT_GROUP_SIZES
        four = TensorRecipe(bits=4, block_size=group_size or sizes[4], symmetric=bool(symmetric))
        wide_size = DEFAULT_GROUP_SIZES[8] if precision == "int8" else WIDE_GROUP_SIZE
        eight = TensorRecipe(bits=8, block_size=group_size or wide_size, symmetric=symmetric is not False)
        first = eight if precision == "int8" else four
        wide = _WIDE if precision == "int4" else ()
        scales = None if precision == "int8" else ScaleRecipe(method="gains")
        return cls(name=precision, rules=(("*", first), *((pattern, eight) for pattern in wide)), scales=scales)

    def calibrated(self) -> Self:
        """Return the recipe for an export with a text: itself where it reads one, else with scales and GPTQ."""
        if self.reads_text:
            return self
        rules = ((pattern, rule if rule.bits == 32 else replace(rule, method="gptq")) for pattern, rule in self.rules)
        return replace(self, rules=tuple(rules), scales=ScaleRecipe(method="awq"))

    def for_matrices(self, names: Iterable[str]) -> Self:
        """Return the recipe without the rules that match none of these names."""
        unused = {*self.unused_patterns(names)}
        first, *others = self.rules
        return replace(self, rules=(first, *(rule for rule in others if rule[0] not in unused)))

    def unused_patterns(self, names: Iterable[str]) -> list[str]:
        """Return the patterns that match none of these names."""
        known = [*names]
        return [pattern for pattern, _ in self.rules if not any(fnmatchcase(name, pattern) for name in known)]

    @property
    def reads_text(self) -> bool:
        """Whether a text is needed to carry it out."""
        return (self.scales is not None and self.scales.reads_text) or any(rule.reads_text for _, rule in self.rules)

    @property
    def _is_float(self) -> bool:
        return all(rule.bits == 32 for _, rule in self.rules)

    @property
    def is_coarse(self) -> bool:
        """Whether some matrices have less than 8 bits."""
        return any(rule.bits < 8 for _, rule in self.rules)

    @property
    def kl_bound(self) -> float:
        """How far a bundle may be from its checkpoint: mean KL in nats per token; 0 is the same up to float32."""
        return 0.0 if self._is_float else _KL_BOUNDS.get(self.name, max(_KL_BOUNDS.values()))

    def for_tensor(self, name: str) -> TensorRecipe:
        """Return what the last rule that matches says."""
        return next(rule for pattern, rule in reversed(self.rules) if fnmatchcase(name, pattern))

    def average_bits(self, sizes: Mapping[str, tuple[int, int]]) -> float:
        """Return the bits per weight of matrices name -> (N, K), with 16 bits per scale and the zero points."""
        if not sizes:
            raise ValueError("the average over no tensors is not defined")
        stored = sum(self.for_tensor(name).num_bits(*size) for name, size in sizes.items())
        return stored / sum(rows * columns for rows, columns in sizes.values())

    def to_json(self) -> dict[str, Any]:
        """Return JSON data, as a manifest and the files of `--recipe` have it."""
        changes = {} if self.rotation is None else {"rotation": asdict(self.rotation)}
        changes |= {} if self.scales is None else {"scales": {**asdict(self.scales), "alphas": [*self.scales.alphas]}}
        return {
            "name": self.name,
            **changes,
            "rules": [{"pattern": pattern, **_said(rule)} for pattern, rule in self.rules],
        }


def _said(rule: TensorRecipe) -> dict[str, Any]:
    fields = asdict(rule)
    return fields if rule.outliers else {name: value for name, value in fields.items() if name != "outliers"}

"""The recipe: how many bits each tensor gets, as data that a manifest can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Self

from skipstone.quant.blockwise import check_block_size, check_method

__all__ = [
    "DEFAULT_GROUP_SIZES",
    "FAST_GROUP_SIZE",
    "GROUP_SIZES",
    "PRECISIONS",
    "WIDE_GROUP_SIZE",
    "Recipe",
    "TensorRecipe",
]

PRECISIONS: Final = ("int4", "int4-fast", "int8", "fp32")
GROUP_SIZES: Final = (32, 64, 128)
# The largest blocks in which one row is multiplied as several are, bit by bit, on processors with AVX-512 VNNI: in
# larger ones kernels take rows in pairs, and round an odd last one in another way.
DEFAULT_GROUP_SIZES: Final[Mapping[int, int]] = {4: 32, 8: 32}
# Of the tensors that int4 stores at 8 bits: larger blocks cost less than they lose beside those at 4.
WIDE_GROUP_SIZE: Final = 64
FAST_GROUP_SIZE: Final = 128
# Nats per token between a trained model and its bundle, several times what good exports measure (docs/quantization.md):
# beyond, something is wrong, or the model needs more bits.
_KL_BOUNDS: Final = {"int4": 0.1, "int4-fast": 0.2, "int8": 0.02, "fp32": 0.0}
_WIDE: Final = ("head", "embedding", "layers.*.qkv", "layers.*.o", "*altup.*")  # what int4 stores at 8 bits
_TENSOR_BITS: Final = (2, 4, 8, 32)
_SCALE_BITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecipe:
    """How to store one matrix; the fields are those of `quantize`, and 32 bits keep it as it is, in float32."""

    bits: int
    block_size: int = FAST_GROUP_SIZE
    symmetric: bool = True
    method: str = "search"

    def __post_init__(self) -> None:
        if self.bits not in _TENSOR_BITS:
            raise ValueError(f"{self.bits} bits per weight is not known; choose one of {_listed(_TENSOR_BITS)}")
        check_block_size(self.block_size)
        check_method(self.method)

    def num_bits(self, rows: int, columns: int) -> int:
        """Return the stored size of a matrix [rows, columns] in bits, with its scales and zero points."""
        if self.bits == 32:
            return 32 * rows * columns
        blocks = -(-columns // self.block_size)
        zero_point_bits = 0 if self.symmetric else 8 * -(-blocks * self.bits // 8)
        return rows * (blocks * (self.block_size * self.bits + _SCALE_BITS) + zero_point_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Rules from a pattern of tensor names, such as `layers.*.down`, to a tensor recipe; the last that matches holds.

    Names: `layers.3.qkv`, `.o`, `.gate_up`, `.down`; `head`; `embedding`; in models of several streams `altup.*`,
    `layers.3.altup.*` and `per_layer_embedding`. The first rule is for `*`, so that all match.
    """

    name: str
    rules: tuple[tuple[str, TensorRecipe], ...]

    def __post_init__(self) -> None:
        if not self.rules or self.rules[0][0] != "*":
            found = f"it is for {self.rules[0][0]!r}" if self.rules else "there is none"
            raise ValueError(f"recipe {self.name!r}: the first rule must be for '*', {found}")

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
            raise ValueError(f"precision {precision!r} is not known; choose one of {_listed(PRECISIONS)}")
        if precision == "fp32":
            if group_size is not None or symmetric is not None:
                raise ValueError("fp32 has no groups and no zero points; leave these options out")
            return cls(name=precision, rules=(("*", TensorRecipe(bits=32)),))
        if group_size is not None and group_size not in GROUP_SIZES:
            raise ValueError(f"group size {group_size} is not known; choose one of {_listed(GROUP_SIZES)}")
        sizes = {4: FAST_GROUP_SIZE} if precision == "int4-fast" else DEFAULT_GROUP_SIZES
        four = TensorRecipe(bits=4, block_size=group_size or sizes[4], symmetric=bool(symmetric))
        wide_size = DEFAULT_GROUP_SIZES[8] if precision == "int8" else WIDE_GROUP_SIZE
        eight = TensorRecipe(bits=8, block_size=group_size or wide_size, symmetric=symmetric is not False)
        first = eight if precision == "int8" else four
        wide = _WIDE if precision == "int4" else ()
        return cls(name=precision, rules=(("*", first), *((pattern, eight) for pattern in wide)))

    @property
    def is_coarse(self) -> bool:
        """Whether some matrices have less than 8 bits."""
        return any(rule.bits < 8 for _, rule in self.rules)

    @property
    def kl_bound(self) -> float:
        """How far a bundle may be from its checkpoint: mean KL in nats per token; 0 is the same up to float32."""
        return _KL_BOUNDS.get(self.name, max(_KL_BOUNDS.values()))

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
        """Return JSON data that `from_json` reads."""
        return {"name": self.name, "rules": [{"pattern": pattern, **asdict(rule)} for pattern, rule in self.rules]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the recipe that `to_json` wrote; raises ValueError for a field missing, unknown or out of range."""
        try:
            rules = ({**rule} for rule in data["rules"])
            return cls(name=data["name"], rules=tuple((rule.pop("pattern"), TensorRecipe(**rule)) for rule in rules))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a recipe: {error}; export the bundle again") from error


def _listed(choices: tuple[object, ...]) -> str:
    return ", ".join(map(str, choices))

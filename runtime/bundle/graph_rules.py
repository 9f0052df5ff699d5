"""What a graph of a bundle may be: operators that exports write, and inputs and outputs as the manifest has them.

So no graph of a stranger can loop, call itself, or read another file, and none meets the engine with shapes that it
does not expect. A graph is looked at before onnxruntime opens it.

Shapes: B batch, T tokens, A rows of attention, W tokens blended at a position, S total length, C rows of the cache,
R rows with logits, P rows of a table, E hidden size, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from skipstone.errors import BundleError
from skipstone.runtime.bundle.graph_outline import Argument, GraphOutline
from skipstone.runtime.bundle.manifest import LayerCache, Manifest
from skipstone.runtime.bundle.variants import PREFILL

__all__ = ["OPERATORS", "TRACED_OPERATORS", "require_graph", "require_operators"]

FUSED: Final = (
    "GatherBlockQuantized GroupQueryAttention MatMulIntegerToFloat MatMulNBits MoE QMoE QuickGelu "
    "SkipLayerNormalization SkipSimplifiedLayerNormalization"
)
STANDARD: Final = (
    "Abs Add And Attention BitShift BitwiseAnd Cast Clip Concat DequantizeLinear Div Expand Gather Gelu Gemm Greater "
    "Identity LayerNormalization Less LessOrEqual MatMul Max Mean Mul OneHot Pad QuantizeLinear RMSNormalization Range "
    "ReduceMax ReduceMean ReduceSum Relu Reshape RotaryEmbedding ScatterND Shape Sigmoid SimplifiedLayerNormalization "
    "Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where"
)
# What optimum traces beside them: operators without graphs of their own, of any number of steps that shapes tell.
TRACED: Final = (
    "ArgMax Ceil Constant ConstantOfShape Conv Cos CumSum Einsum Elu Equal Erf Exp Flatten Floor GatherElements "
    "GatherND GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Min Mod Neg NonZero Not Or Pow Reciprocal "
    "ReduceMin ReduceProd Round ScatterElements Sign Sin Size Softplus Trilu Xor"
)
OPERATORS: Final = frozenset(STANDARD.split()) | {f"com.microsoft:{name}" for name in FUSED.split()}
"""The operators that our kernels write, as `GraphOutline` writes them."""
TRACED_OPERATORS: Final = OPERATORS | frozenset(TRACED.split())
"""The operators of graphs that optimum traced."""

# Numbers of types in onnx.proto3.
NUMBER_TYPES: Final[Mapping[str, int]] = {"float32": 1, "int8": 3, "float16": 10}
INT32, INT64 = 6, 7
Size: TypeAlias = "int | str | None"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an input or output must be: its type, and its sizes, a letter for those of a call, None for any number."""

    element_type: int
    shape: tuple[Size, ...]


def require_graph(place: Path, manifest: Manifest, *, file: str, kind: str, cache_type: str) -> None:
    """Raise BundleError unless the graph at a place is one that the engine can run.

    It is what the plain graph `file` is as a `kind` of variant, "" for none, for a type of cache. Cost: 10 ms for a
    graph of 30 layers.
    """
    name = manifest.graph_file(file, kind=kind, cache_type=cache_type)
    outline = GraphOutline.read(place)
    try:
        require_operators(outline, TRACED_OPERATORS if manifest.is_traced else OPERATORS)
        _require_weights(outline, manifest, folder=name.rpartition("/")[0])
        known = _traced_kinds(manifest) if manifest.is_traced else _Kinds(manifest, file, cache_type)
        for direction, arguments in (("input", outline.inputs), ("output", outline.outputs)):
            for argument in arguments:
                kind_of = known.get(argument.name)
                _require_argument(argument, kind_of, direction, has_buckets=manifest.buckets is not None)
        _require_names(outline, None if kind == PREFILL else _result_of(file, manifest))
    except BundleError as error:
        raise BundleError(f"{name} does not fit the manifest: {error}; copy or export the bundle again") from error


def require_operators(outline: GraphOutline, allowed: frozenset[str]) -> None:
    """Raise BundleError for functions, graphs inside of nodes, and operators that are not `allowed`."""
    if outline.is_nested:
        raise BundleError("it has functions, or graphs or sparse tensors inside, which no graph of a bundle has")
    if strange := sorted(outline.operators - allowed):
        raise BundleError(f"no export writes the operator {strange[0][:80]!r}")


def _require_weights(outline: GraphOutline, manifest: Manifest, *, folder: str) -> None:
    """Raise BundleError for tensors outside of the files that the manifest lists."""
    for location, num_bytes in outline.weights.items():
        entry = manifest.files.get(f"{folder}/{location}" if folder else location)
        if entry is None:
            raise BundleError(f"tensors lie in {location[:80]!r}, which the manifest does not list")
        if num_bytes > entry.size:
            raise BundleError(f"tensors lie behind the end of {location}, which has {entry.size} bytes")


def _require_argument(argument: Argument, kind: _Kind | None, direction: str, *, has_buckets: bool) -> None:
    shown = f"{direction} {argument.name[:60]!r}"
    if kind is None:
        raise BundleError(f"the {shown} is unknown")
    if argument.element_type != kind.element_type:
        raise BundleError(f"the {shown} has type {argument.element_type}, {kind.element_type} wanted")
    sizes_fit = all(
        found == wanted if isinstance(wanted, int) else _is_any(found, is_fixed=has_buckets or wanted is None)
        for found, wanted in zip(argument.shape, kind.shape, strict=False)
    )
    if len(argument.shape) != len(kind.shape) or not sizes_fit:
        raise BundleError(f"the {shown} has shape {_told(argument.shape)}, {_told(kind.shape)} wanted")


def _is_any(size: Size, *, is_fixed: bool) -> bool:
    """Whether a size may stand where the manifest has none: a name, or a number where graphs fix one."""
    return isinstance(size, str) or (is_fixed and size is not None and 1 <= size < 1 << 31)


def _told(shape: tuple[Size, ...]) -> str:
    return "[" + ", ".join(str(size)[:20] for size in shape[:8]) + "]"


def _require_names(outline: GraphOutline, result: str | None) -> None:
    """Raise BundleError where a name stands twice, or the `result` that the engine reads is missing."""
    for arguments in (outline.inputs, outline.outputs):
        names = [argument.name for argument in arguments]
        if len(set(names)) < len(names):
            raise BundleError("an input or output stands twice")
    if result is not None and result not in [argument.name for argument in outline.outputs]:
        raise BundleError(f"it has no output {result!r}")


def _result_of(file: str, manifest: Manifest) -> str:
    """Return what is read of a plain graph: logits, or what the next graph takes."""
    ends_in_logits = {stage.file for stage in manifest.stages if stage.ends_in_logits or manifest.is_traced}
    return "logits" if file in {manifest.head, manifest.draft_head, *ends_in_logits} else "hidden_out"


class _Kinds:
    """What the arguments of our own graphs must be, by their names."""

    def __init__(self, manifest: Manifest, file: str, cache_type: str) -> None:
        self._numbers = NUMBER_TYPES[manifest.numbers]
        self._cache, self._num_rotaries = manifest.layout(cache_type), len(manifest.rotaries)
        self._windows = {layer.window for layer in manifest.cache if layer.window is not None}
        hidden, vocabulary = manifest.dimensions.hidden_size, manifest.dimensions.vocab_size
        num_logits = None if file == manifest.draft_head else vocabulary  # that for drafts knows the first ones
        self._fixed: Mapping[str, _Kind] = {
            "token_ids": _Kind(INT64, ("B", "T", "W")),
            "token_weights": _Kind(self._numbers, ("B", "T", "W")),
            "position_ids": _Kind(INT64, ("B", "A")),
            "seqlens_k": _Kind(INT32, ("B",)),
            "total_sequence_length": _Kind(INT32, ()),
            "attention_bias": _Kind(self._numbers, (1, 1, "A", "S")),
            "attention_rows": _Kind(INT64, ("A",)),
            "token_rows": _Kind(INT64, ("T",)),
            "rows": _Kind(INT64, ("R",)),
            "active_experts": _Kind(INT64, (None,)),
            "extra_ids": _Kind(INT64, ("P",)),
            "hidden": _Kind(self._numbers, ("B", "T", hidden)),
            "hidden_out": _Kind(self._numbers, ("B", "T", hidden)),
            "logits": _Kind(NUMBER_TYPES["float32"], ("R", num_logits)),
            "extra_logits": _Kind(NUMBER_TYPES["float32"], ("R", "P")),
        }

    def get(self, name: str) -> _Kind | None:
        """Return what the argument of a name must be; None where there is no such argument."""
        plain = re.sub("_of_[0-9]{1,9}$", "", name)  # a layer that gives back the cache of another
        stem, _, number = plain.rpartition("_")
        if name in self._fixed or re.fullmatch("[0-9]{1,9}", number) is None:
            return self._fixed.get(name)
        return self._numbered(stem, int(number))

    def _numbered(self, stem: str, number: int) -> _Kind | None:
        if stem in ("past_key", "past_value", "present_key", "present_value") and number < len(self._cache):
            return _cache_kind(self._cache[number])
        if stem in ("cosines", "sines") and number < self._num_rotaries:
            return _Kind(self._numbers, ("P", self._cache[0].head_size // 2))
        if stem == "seqlens_k" and number in self._windows:
            return _Kind(INT32, ("B",))
        if stem == "total_length" and number in self._windows:
            return _Kind(INT32, ())
        if stem == "attention_bias":
            return _Kind(self._numbers, (1, 1, "A", "S"))
        return None


def _cache_kind(layer: LayerCache) -> _Kind:
    return _Kind(NUMBER_TYPES[layer.dtype], ("B", layer.num_heads, "C", layer.head_size))


def _traced_kinds(manifest: Manifest) -> Mapping[str, _Kind]:
    """Return what the arguments of a graph of optimum must be."""
    float32, vocabulary = NUMBER_TYPES["float32"], manifest.dimensions.vocab_size
    return {
        "input_ids": _Kind(INT64, ("B", "T")),
        "attention_mask": _Kind(INT64, ("B", "S")),
        "position_ids": _Kind(INT64, ("B", "T")),
        "logits": _Kind(float32, ("B", "T", vocabulary)),
        **{name: kind for number, layer in enumerate(manifest.cache) for name, kind in _traced_cache(number, layer)},
    }


def _traced_cache(number: int, layer: LayerCache) -> Iterator[tuple[str, _Kind]]:
    for stem in ("past_key_values", "present"):
        for kind in ("key", "value"):
            yield f"{stem}.{number}.{kind}", _cache_kind(layer)

"""The operators that a target takes, one class for each; nowhere else is one named that ONNX does not define.

Here stand what all targets have, and `ort`: the fused operators of onnxruntime. Shapes: B batch, T tokens, E hidden
size, H heads, K kv heads or columns of a matrix, D padded head size, C cache capacity, N rows of a matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias

import onnx_ir as ir

from skipstone.errors import UnsupportedModel
from skipstone.exporters.families import Experts
from skipstone.exporters.graph.expert_rows import fan_out, mix
from skipstone.exporters.graph.expert_store import StoredExperts
from skipstone.exporters.graph.pen import Attribute, GraphPen
from skipstone.exporters.graph.step_inputs import AttentionLayer, StepInputs
from skipstone.exporters.graph.weight_file import StoredMatrix
from skipstone.quant import Matrix, TensorRecipe

__all__ = ["MICROSOFT", "PACKED_PRODUCT", "Kernels", "OrtKernels", "packed_product_attributes"]

Shape: TypeAlias = tuple[int | str, ...]
MICROSOFT: Final = "com.microsoft"
PACKED_PRODUCT: Final = "MatMulNBits"
# Activations that are x * sigmoid(factor * x).
_SIGMOID_FACTORS: Final[Mapping[str, float]] = {"silu": 1.0, "quick_gelu": 1.702}
_ACTIVATIONS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}
# silu(gate) * up of rows in which gate and up alternate, the only order that the CPU takes; one expert for each row.
_EXPERT_ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "activation_type": "swiglu",
    "activation_alpha": 1.0,
    "activation_beta": 0.0,
    "swiglu_fusion": 1,
    "k": 1,
    "normalize_routing_weights": 1,
}
# Of a cache of integers: a scale for each channel of each head.
_INT8_CACHE: Final[Mapping[str, Attribute]] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}


class Kernels(ABC):
    """Writes to one graph what the operators of a target compute; the graph is that of `pen`.

    `opsets` are the sets of operators by domain. `is_exact`: whether a row, computed with one other, has the same bits
    whatever the other is. `has_attention_rows`: whether attention rounds a single row in a way of its own, and so is
    given rows of its own; see `StepInputs`. `has_int8_cache`: whether it reads keys and values that are integers.
    `has_experts`: whether an operator runs single experts, without the work of all others. `packs_experts`: whether
    those of a mixture may be integers. `has_rings`: whether layers with a window may keep the last rows of a text only.
    `has_prefill`: whether graphs that read prompts in integers may stand beside the others. `has_buckets`: whether
    graphs of fixed shapes do, see `for_bucket`. `least_bits` are those of the narrowest integers that the
    target reads, 32 where it reads none. `numbers` is the type of what nodes pass on, of the cache, and of weights that
    are no integers.
    """

    opsets: ClassVar[Mapping[str, int]]
    ir_version: ClassVar[int]
    is_exact: ClassVar[bool]
    has_attention_rows: ClassVar[bool]
    has_int8_cache: ClassVar[bool]
    has_experts: ClassVar[bool]
    has_prefill: ClassVar[bool] = False
    has_rings: ClassVar[bool] = True
    has_buckets: ClassVar[bool] = False
    rms_norm: ClassVar[str]
    least_bits: ClassVar[int] = 2
    numbers: ClassVar[str] = "float32"
    packs_experts: ClassVar[bool] = True

    def __init__(self, pen: GraphPen) -> None:
        self.pen = pen

    @classmethod
    def for_bucket(cls, pen: GraphPen, num_rows: int, context: int) -> Kernels:
        """Return what writes a graph of fixed shapes, for so many rows and so long a cache."""
        raise UnsupportedModel("graphs of this target take any shape; leave --buckets out")

    def cache_shapes(self, num_heads: int, size: int) -> tuple[Shape, Shape]:
        """Return the shapes of a cache of keys or values as `attend` reads it, and of what it gives back."""
        whole = ("B", num_heads, "C", size)
        return whole, whole

    def model(self) -> ir.Model:
        """Return the graph with all that was written to it."""
        return self.pen.model(self.opsets, self.ir_version)

    def activate(self, name: str, x: ir.Value) -> ir.Value:
        """Return an activation, by the name that an architecture has for it."""
        if name in _SIGMOID_FACTORS:
            return self.times_sigmoid(x, _SIGMOID_FACTORS[name])
        operator, attributes = _ACTIVATIONS[name]
        return self.pen.op(operator, x, **attributes)

    @abstractmethod
    def times_sigmoid(self, x: ir.Value, factor: float) -> ir.Value:
        """Return x * sigmoid(factor * x)."""

    def norm(self, kind: str, x: ir.Value, *weights: ir.Value, epsilon: float) -> ir.Value:
        """Return rows of x normed: by their `rms`, or as a `layer` norm does; `weights` are a gain and maybe a bias."""
        operator = self.rms_norm if kind == "rms" else "LayerNormalization"
        return self.pen.op(operator, x, *weights, epsilon=epsilon, axis=-1)

    @abstractmethod
    def norm_sum(
        self, kind: str, stream: ir.Value, update: ir.Value, *weights: ir.Value, epsilon: float
    ) -> tuple[ir.Value, ir.Value]:
        """Return the normed sum of two values, and the sum itself."""

    def matrices(
        self, name: str, make: Callable[[], Sequence[Matrix]], rule: TensorRecipe, *, shared: bool
    ) -> tuple[StoredMatrix, ...]:
        """Return the stored matrices for products that `make` gives; a `shared` one is looked up by row too."""
        return self.pen.file.add_matrices(name, make, rule, transposed=not shared)

    @abstractmethod
    def product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, *, accuracy_level: int = 4) -> ir.Value:
        """[..., K] to [..., N]: multiply by a matrix of integers and add the bias; level 4 may round x, 1 may not.

        x has the columns as the matrix is stored; see `StoredMatrix.stored_columns`.
        """

    @abstractmethod
    def rows(self, matrix: StoredMatrix, row_ids: ir.Value) -> ir.Value:
        """Ids [...] to rows of a matrix of integers as they are stored, with what fills up the last block."""

    @abstractmethod
    def attend(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: AttentionLayer, step: StepInputs
    ) -> Sequence[ir.Value]:
        """Return what attention mixes [B, T, H * D] and, when the layer `writes` or reads integers, the caches.

        `parts` are queries, keys and values, or all in the first of them; `past` are the caches of keys and of values,
        [B, K, C, D]. One that does not write finds the new rows there.
        """

    @abstractmethod
    def mix_experts(
        self, x: ir.Value, choice: ir.Value, weights: ir.Value, experts: Experts, stored: StoredExperts
    ) -> ir.Value:
        """[B, T, E] to [B, T, E]: the sums of what the experts `choice` [B, T, A] give, with `weights` [B, T, A]."""

    def run_experts(
        self, rows: ir.Value, logits: ir.Value, stored: StoredExperts, activation: str = "silu"
    ) -> ir.Value:
        """[B, T, E] and logits [B * T, X] to what the expert with the largest logit gives, [B, T, E].

        Raises: UnsupportedModel for a target without `has_experts`.
        """
        raise UnsupportedModel("carved experts need the operators of onnxruntime; leave --target or --experts out")


class OrtKernels(Kernels):
    """The fused operators of onnxruntime: integers are multiplied as they are, and attention is one node."""

    opsets: ClassVar[Mapping[str, int]] = {"": 21, MICROSOFT: 1}
    ir_version = 10
    is_exact = True
    has_attention_rows = True
    has_int8_cache = True
    has_experts = True
    has_prefill = True
    rms_norm = "SimplifiedLayerNormalization"

    def times_sigmoid(self, x: ir.Value, factor: float) -> ir.Value:
        return self.pen.op("QuickGelu", x, domain=MICROSOFT, alpha=factor)

    def norm_sum(
        self, kind: str, stream: ir.Value, update: ir.Value, *weights: ir.Value, epsilon: float
    ) -> tuple[ir.Value, ir.Value]:
        normed, mean, deviation, total = self.pen.op_outputs(
            "SkipSimplifiedLayerNormalization" if kind == "rms" else "SkipLayerNormalization",
            *(update, stream, *weights),
            count=4,
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        mean.name = deviation.name = ""  # not wanted, so not computed
        return normed, total

    def product(self, x: ir.Value, matrix: StoredMatrix, bias: ir.Value | None, *, accuracy_level: int = 4) -> ir.Value:
        pen, data = self.pen, self.pen.stored(matrix.data)
        assert matrix.scales is not None, "integers have scales"
        return pen.op(
            PACKED_PRODUCT,
            *(x, data, pen.scales(matrix.scales)),
            None if matrix.zero_points is None else pen.stored(matrix.zero_points),
            *(None, bias),
            domain=MICROSOFT,
            **packed_product_attributes(matrix, accuracy_level),
        )

    def rows(self, matrix: StoredMatrix, row_ids: ir.Value) -> ir.Value:
        assert matrix.scales is not None, "integers have scales"
        pen, num_bytes = self.pen, matrix.data.nbytes // matrix.rows
        # The matrix product wants blocks apart, the lookup wants rows: same bytes, two shapes.
        return pen.op(
            "GatherBlockQuantized",
            *(pen.view(matrix.data, "as_2d", (matrix.rows, num_bytes)), row_ids, pen.scales(matrix.scales)),
            None if matrix.zero_points is None else pen.stored(matrix.zero_points),
            domain=MICROSOFT,
            bits=matrix.bits,
            block_size=matrix.block_size,
            gather_axis=0,
            quantize_axis=1,
        )

    def attend(
        self, parts: Sequence[ir.Value | None], past: Sequence[ir.Value], layer: AttentionLayer, step: StepInputs
    ) -> Sequence[ir.Value]:
        turns, scales = layer.turns, layer.cache_scales
        integers = ((None, *scales), _INT8_CACHE) if scales else ((), {})
        return self.pen.op_outputs(
            "GroupQueryAttention",
            *(*parts, *past, step.last_positions, step.total_length),
            *(turns or (None, None)),
            step.position_ids if turns else None,
            step.attention_bias,
            *integers[0],
            count=3 if layer.writes or scales else 1,
            domain=MICROSOFT,
            num_heads=layer.num_heads,
            kv_num_heads=layer.num_kv_heads,
            do_rotary=int(turns is not None),
            scale=layer.scale,
            softcap=layer.softcap,
            local_window_size=layer.window or -1,
            **integers[1],
        )

    def mix_experts(
        self, x: ir.Value, choice: ir.Value, weights: ir.Value, experts: Experts, stored: StoredExperts
    ) -> ir.Value:
        rows, logits = fan_out(self.pen, x, choice, experts, stored.width)
        return mix(self.pen, self.run_experts(rows, logits, stored), weights, experts, stored.width)

    def run_experts(
        self, rows: ir.Value, logits: ir.Value, stored: StoredExperts, activation: str = "silu"
    ) -> ir.Value:
        """[B, T, E] and logits [B * T, X] to what the expert with the largest logit gives, [B, T, E]."""
        attributes = {**_EXPERT_ATTRIBUTES, "activation_alpha": _SIGMOID_FACTORS[activation]}
        pen, stacks = self.pen, (stored.gate_up, stored.down)
        gate_up, down = (pen.stored(stack.data) for stack in stacks)
        if stored.form.bits == 32:
            return pen.op("MoE", rows, logits, gate_up, stored.gate_up_bias, down, domain=MICROSOFT, **attributes)
        gate_up_scales, down_scales = (None if stack.scales is None else pen.scales(stack.scales) for stack in stacks)
        return pen.op(
            "QMoE",
            *(rows, logits, gate_up, gate_up_scales, stored.gate_up_bias, down, down_scales),
            *(None, None, None, None),
            *(None if stack.zero_points is None else pen.stored(stack.zero_points) for stack in stacks),
            domain=MICROSOFT,
            expert_weight_bits=stored.form.bits,
            block_size=stored.form.block_size,
            accuracy_level=stored.accuracy_level,
            **attributes,
        )


def packed_product_attributes(matrix: StoredMatrix, accuracy_level: int = 4) -> dict[str, int]:
    """Return the attributes of a PACKED_PRODUCT with a matrix of integers."""
    return {
        "K": matrix.stored_columns,
        "N": matrix.rows,
        "bits": matrix.bits,
        "block_size": matrix.block_size,
        "accuracy_level": accuracy_level,
    }

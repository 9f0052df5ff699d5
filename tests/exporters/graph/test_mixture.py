"""A mixture of experts computes what transformers does, in numbers and in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.families import Experts
from skipstone.exporters.graph import TARGETS, GraphPen, OrtKernels, WeightFile
from skipstone.exporters.graph.expert_store import expert_rule
from skipstone.exporters.graph.mixture import mixture
from skipstone.quant import Matrix, QuantizedMatrix, TensorRecipe, quantize

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
FP32 = TensorRecipe(bits=32)
# Of the largest output: an activation between two of the 8-bit levels may fall to the other one.
INT8_TOLERANCE = 0.02
ONE_BY_ONE = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Layer:
    """The FFN of one layer as a test makes it up."""

    experts: Experts
    gate_ups: Sequence[Matrix]
    downs: Sequence[Matrix]

    def session(self, folder: Path, rule: TensorRecipe, target: str = "ort") -> onnxruntime.InferenceSession:
        """Return a session of the mixture alone: x [B, T, E] and logits [B, T, X] in, y out."""
        with WeightFile(folder / "weights") as file:
            pen = GraphPen("mixture", file)
            x = pen.input("x", ir.DataType.FLOAT, ("B", "T", "E"))
            logits = pen.input("logits", ir.DataType.FLOAT, ("B", "T", self.experts.num_experts))
            kernels = TARGETS[target](pen)
            y = mixture(
                kernels,
                x,
                logits,
                self.experts,
                name="experts",
                rule=rule,
                gate_up=self.gate_ups.__getitem__,
                down=self.downs.__getitem__,
            )
            pen.output(y, "y", ir.DataType.FLOAT, ("B", "T", "E"))
            ir.save(kernels.model(), folder / "mixture.onnx")
        return onnxruntime.InferenceSession(folder / "mixture.onnx", providers=["CPUExecutionProvider"])

    def run(self, folder: Path, rule: TensorRecipe, x: Floats, logits: Floats, target: str = "ort") -> Floats:
        output: Floats = self.session(folder, rule, target).run(None, {"x": x, "logits": logits})[0]
        return output

    def oracle(self, x: Floats, logits: Floats, *, block_size: int | None = None) -> Doubles:
        """Return what transformers computes, token by token, in float64.

        With a `block_size` activations are rounded to 8 bits a block before both products, as with integers.
        """
        tokens = zip(x.reshape(-1, x.shape[-1]), logits.reshape(-1, logits.shape[-1]), strict=True)
        return np.array([self._token(*token, block_size) for token in tokens]).reshape(x.shape)

    def _token(self, x: Floats, logits: Floats, block_size: int | None) -> Doubles:
        odds = np.exp(logits.astype(np.float64) - logits.max())
        active = np.argsort(-odds, kind="stable")[: self.experts.num_active]
        weights = odds[active] / (odds[active] if self.experts.normalized else odds).sum()
        return weights @ np.array([self._expert(int(index), x, block_size) for index in active])

    def _expert(self, index: int, x: Floats, block_size: int | None) -> Doubles:
        gate, up = np.split(numbers(self.gate_ups[index]) @ rounded(x, block_size), 2)
        return numbers(self.downs[index]) @ rounded(gate / (1 + np.exp(-gate)) * up, block_size)


def numbers(matrix: Matrix) -> Doubles:
    return (matrix if isinstance(matrix, np.ndarray) else matrix.dequantize()).astype(np.float64)


def rounded(x: NDArray[Any], block_size: int | None) -> Doubles:
    """Return a vector in steps of a 127th of the largest value of each block; None is as it is."""
    if block_size is None:
        return x.astype(np.float64)
    blocks = np.pad(x.astype(np.float64), (0, -len(x) % block_size)).reshape(-1, block_size)
    steps = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), 1e-30) / 127
    return (np.rint(blocks / steps) * steps).ravel()[: len(x)]


def random_layer(
    hidden: int = 20, inner: int = 12, num_experts: int = 6, num_active: int = 2, *, normalized: bool = True
) -> Layer:
    random = np.random.default_rng(hidden + inner + num_experts)
    gate_ups = random.standard_normal((num_experts, 2 * inner, hidden), np.float32) / np.float32(hidden**0.5)
    downs = random.standard_normal((num_experts, hidden, inner), np.float32) / np.float32(inner**0.5)
    experts = Experts(
        num_experts=num_experts, num_active=num_active, intermediate_size=inner, normalized=normalized, layers=(True,)
    )
    return Layer(experts, list(gate_ups), list(downs))


def random_input(layer: Layer, batch: int, tokens: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(batch + tokens)
    x = random.standard_normal((batch, tokens, layer.downs[0].shape[0]), np.float32)
    return x, random.standard_normal((batch, tokens, layer.experts.num_experts), np.float32) * 2


def in_integers(layer: Layer, gate_up: TensorRecipe, down: TensorRecipe) -> Layer:
    return replace(
        layer,
        gate_ups=[as_integers(matrix, gate_up) for matrix in layer.gate_ups],
        downs=[as_integers(matrix, down) for matrix in layer.downs],
    )


def as_integers(matrix: Matrix, rule: TensorRecipe) -> QuantizedMatrix:
    assert isinstance(matrix, np.ndarray)
    return quantize(matrix, bits=rule.bits, block_size=rule.block_size, symmetric=rule.symmetric, method=rule.method)


def assert_close(found: Floats, wanted: Doubles, tolerance: float) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1e-6, np.abs(wanted).max()))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    num_experts = draw(st.integers(1, 9))
    return random_layer(
        draw(st.integers(1, 70)),
        draw(st.integers(1, 70)),
        num_experts,
        draw(st.integers(1, num_experts)),
        normalized=draw(st.booleans()),
    )


RULES = st.builds(
    TensorRecipe, bits=st.sampled_from([4, 8]), block_size=st.sampled_from([16, 32, 64, 128]), symmetric=st.booleans()
)
ROWS = st.sampled_from([1, 2, 3, 8])


@ONE_BY_ONE
@given(layers(), st.integers(1, 2), ROWS)
def test_in_numbers_it_is_what_transformers_computes(tmp_path: Path, layer: Layer, batch: int, tokens: int) -> None:
    x, logits = random_input(layer, batch, tokens)
    assert_close(layer.run(tmp_path, FP32, x, logits), layer.oracle(x, logits), 1e-5)


@ONE_BY_ONE
@given(layers(), st.sampled_from([FP32]) | RULES, st.integers(1, 2), ROWS)
def test_plain_operators_multiply_the_rounded_matrices_by_numbers(
    tmp_path: Path, layer: Layer, rule: TensorRecipe, batch: int, tokens: int
) -> None:
    x, logits = random_input(layer, batch, tokens)
    wanted = (layer if rule.bits == 32 else in_integers(layer, rule, rule)).oracle(x, logits)
    assert_close(layer.run(tmp_path, rule, x, logits, "plain"), wanted, 2e-5)


@ONE_BY_ONE
@given(layers(), RULES, st.integers(1, 2), ROWS)
def test_in_integers_it_is_the_mixture_of_the_rounded_matrices(
    tmp_path: Path, layer: Layer, rule: TensorRecipe, batch: int, tokens: int
) -> None:
    x, logits = random_input(layer, batch, tokens)
    wanted = in_integers(layer, rule, rule).oracle(x, logits, block_size=rule.block_size)
    assert_close(layer.run(tmp_path, rule, x, logits), wanted, INT8_TOLERANCE)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("num_active", [1, 2, 6])
@pytest.mark.parametrize("rule", [FP32, TensorRecipe(bits=4, block_size=32, symmetric=False), TensorRecipe(bits=8)])
def test_one_expert_may_outweigh_all_others(
    tmp_path: Path, rule: TensorRecipe, num_active: int, normalized: bool
) -> None:
    layer = random_layer(num_active=num_active, normalized=normalized)
    x, logits = random_input(layer, 1, 3)
    logits[..., 4] = 1000
    found, alone = layer.run(tmp_path, rule, x, logits), replace(layer, experts=replace(layer.experts, num_active=1))
    if rule.bits == 32:
        assert_close(found, alone.oracle(x, logits), 1e-5)
    else:
        wanted = in_integers(alone, rule, rule).oracle(x, logits, block_size=rule.block_size)
        assert_close(found, wanted, INT8_TOLERANCE)


def test_of_experts_with_equal_logits_the_first_are_active(tmp_path: Path) -> None:
    layer = random_layer()
    x, logits = random_input(layer, 1, 3)
    logits[:] = 0
    wanted = layer.oracle(x, np.where(np.arange(6) < 2, np.float32(0), np.float32(-1000)) + logits)
    assert_close(layer.run(tmp_path, FP32, x, logits), wanted, 1e-5)


def transformers_block(family: str, layer: Layer) -> Any:
    """Return the mixture of a family as transformers has it, with the weights of the layer and a random router."""
    import torch
    import transformers
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    e = layer.experts
    settings = {"hidden_size": layer.downs[0].shape[0], "num_experts_per_tok": e.num_active}
    if family == "mixtral":
        sizes = {"num_local_experts": e.num_experts, "intermediate_size": e.intermediate_size}
        block = MixtralSparseMoeBlock(transformers.MixtralConfig(**settings, **sizes))
    elif family == "olmoe":
        sizes = {"num_experts": e.num_experts, "intermediate_size": e.intermediate_size}
        block = OlmoeSparseMoeBlock(transformers.OlmoeConfig(**settings, **sizes, norm_topk_prob=e.normalized))
    else:
        sizes = {"num_experts": e.num_experts, "moe_intermediate_size": e.intermediate_size}
        block = Qwen3MoeSparseMoeBlock(transformers.Qwen3MoeConfig(**settings, **sizes, norm_topk_prob=e.normalized))
    torch.manual_seed(0)
    block.gate.weight.data.normal_()
    block.experts.gate_up_proj.data = torch.from_numpy(np.stack([numbers(one) for one in layer.gate_ups])).float()
    block.experts.down_proj.data = torch.from_numpy(np.stack([numbers(one) for one in layer.downs])).float()
    return block


@pytest.mark.parametrize(
    ("family", "normalized"),
    [("qwen3_moe", True), ("qwen3_moe", False), ("olmoe", True), ("olmoe", False), ("mixtral", True)],
)
def test_a_family_of_transformers_gives_the_same(tmp_path: Path, family: str, normalized: bool) -> None:
    import torch

    layer = random_layer(num_active=3, normalized=normalized)
    block = transformers_block(family, layer)
    x, _ = random_input(layer, 2, 5)
    with torch.no_grad():
        wanted = block(torch.from_numpy(x)).numpy()
    logits = x @ block.gate.weight.detach().numpy().T
    assert_close(layer.run(tmp_path, FP32, x, logits), wanted, 1e-5)


def has_vnni() -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and "avx512_vnni" in path.read_text()


@pytest.mark.skipif(not has_vnni(), reason="other kernels may round an odd row differently")
@pytest.mark.parametrize(("bits", "block_size"), [(4, 16), (4, 32), (8, 32), (8, 64)])
def test_in_small_blocks_no_bit_depends_on_the_other_tokens(tmp_path: Path, bits: int, block_size: int) -> None:
    layer = random_layer(256, 128, 16, 5)
    session = layer.session(tmp_path, TensorRecipe(bits=bits, block_size=block_size, symmetric=False))
    x, logits = random_input(layer, 1, 32)
    (whole,) = session.run(None, {"x": x, "logits": logits})
    for size in (1, 2, 3, 8):
        for start in range(0, 32 - size, size):
            rows = slice(start, start + size)
            (part,) = session.run(None, {"x": x[:, rows], "logits": logits[:, rows]})
            np.testing.assert_array_equal(part, whole[:, rows])


# Integers of the checkpoint


def stored(folder: Path, name: str, index: int, rows: Sequence[int], form: TensorRecipe) -> Floats:
    """Return some rows of the matrix of one expert as the graph stores it."""
    initializers = ir.load(folder / "mixture.onnx").graph.initializers
    found = {
        part: read(initializers[f"{name}.{part}"])[index][list(rows)]
        for part in ("data", "scales", "zero_points")
        if f"{name}.{part}" in initializers
    }
    matrix = QuantizedMatrix(
        data=found["data"].reshape(*found["scales"].shape, -1),
        scales=found["scales"],
        zero_points=found.get("zero_points"),
        bits=form.bits,
        block_size=form.block_size,
        shape=(len(rows), found["scales"].shape[1] * form.block_size),
    )
    return matrix.dequantize()


def read(value: ir.Value) -> NDArray[Any]:
    """Return a stored tensor; scales in 16 bits as the graph makes numbers of them."""
    assert value.const_value is not None
    array, nodes = value.const_value.numpy(), [use.node for use in value.uses()]
    if nodes[0].op_type == "Cast":
        array, nodes = array.astype(np.float32), [use.node for use in nodes[0].outputs[0].uses()]
    if nodes[0].op_type == "Mul":
        array = array * nodes[0].inputs[1].const_value.numpy()
    return array


def assert_kept(folder: Path, carried: Layer, rule: TensorRecipe) -> None:
    """Check the stored values one by one, and the mixture."""
    x, logits = random_input(carried, 1, 3)
    found = carried.run(folder, rule, x, logits)
    form = expert_rule(rule, carried.gate_ups[0], carried.downs[0])
    hidden, inner = carried.downs[0].shape
    for index in range(carried.experts.num_experts):
        places = [*range(0, 2 * inner, 2), *range(1, 2 * inner, 2)]
        inside = stored(folder, "experts.gate_up", index, places, form)
        outside = stored(folder, "experts.down", index, range(hidden), form)
        np.testing.assert_array_equal(inside[:, :hidden], numbers(carried.gate_ups[index]))
        np.testing.assert_array_equal(outside[:, :inner], numbers(carried.downs[index]))
    if rule.bits == 32 and form.bits == 4:  # in an fp32 bundle rows stay in float32, as far as the kernels can
        assert_close(found, carried.oracle(x, logits), 1e-5)
    else:
        assert_close(found, carried.oracle(x, logits, block_size=form.block_size), INT8_TOLERANCE)


@ONE_BY_ONE
@given(layers(), RULES, RULES, st.sampled_from([FP32, TensorRecipe(bits=8, block_size=16)]))
def test_integers_of_the_checkpoint_keep_their_values(
    tmp_path: Path, layer: Layer, gate_up: TensorRecipe, down: TensorRecipe, rule: TensorRecipe
) -> None:
    assert_kept(tmp_path, in_integers(layer, gate_up, down), rule)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_most_bits_and_the_smallest_block_hold_all_integers(tmp_path: Path, symmetric: bool) -> None:
    four, eight = TensorRecipe(bits=4, block_size=64, symmetric=symmetric), TensorRecipe(bits=8, block_size=16)
    for gate_up, down in ((four, eight), (eight, four)):
        carried = in_integers(random_layer(200, 150), gate_up, down)
        form = expert_rule(FP32, carried.gate_ups[0], carried.downs[0])
        assert (form.bits, form.block_size) == (8, 16)
        assert_kept(tmp_path, carried, FP32)


def test_some_experts_may_have_zero_points_and_others_none(tmp_path: Path) -> None:
    layer, plain = random_layer(70, 70), TensorRecipe(bits=4, block_size=16)
    carried, shifted = (in_integers(layer, rule, rule) for rule in (plain, replace(plain, symmetric=False)))
    mixed = replace(
        layer,
        gate_ups=[*carried.gate_ups[:3], *shifted.gate_ups[3:]],
        downs=[*shifted.downs[:3], *carried.downs[3:]],
    )
    assert_kept(tmp_path, mixed, FP32)


def test_beside_numbers_that_stay_numbers_integers_become_numbers(tmp_path: Path) -> None:
    layer = random_layer()
    four = TensorRecipe(bits=4, block_size=16)
    half = replace(layer, gate_ups=in_integers(layer, four, four).gate_ups)
    x, logits = random_input(layer, 1, 3)
    assert expert_rule(FP32, half.gate_ups[0], half.downs[0]).bits == 32
    assert_close(half.run(tmp_path, FP32, x, logits), half.oracle(x, logits), 1e-5)


def test_experts_in_other_integers_than_the_first_are_refused(tmp_path: Path) -> None:
    layer = random_layer()
    four, eight = TensorRecipe(bits=4, block_size=32), TensorRecipe(bits=8, block_size=32)
    carried = in_integers(layer, four, four)
    mixed = replace(carried, downs=[*carried.downs[:-1], as_integers(layer.downs[-1], eight)])
    with pytest.raises(UnsupportedModel, match="8 bits and blocks of 32, the first one in 4 and 32"):
        mixed.session(tmp_path, FP32)
    with pytest.raises(UnsupportedModel, match="32 bits"):
        replace(carried, downs=[*carried.downs[:-1], layer.downs[-1]]).session(tmp_path, FP32)


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    layer = random_layer()
    four = TensorRecipe(bits=4, block_size=32)
    carried = in_integers(layer, four, four)
    turned = [replace(as_integers(matrix, four), order=np.arange(12)[::-1]) for matrix in layer.downs]
    with pytest.raises(UnsupportedModel, match="act-order"):
        replace(carried, downs=turned).session(tmp_path, FP32)


# What is read, and what is refused


@pytest.mark.parametrize("rule", [FP32, TensorRecipe(bits=4)])
def test_each_matrix_is_read_once(tmp_path: Path, rule: TensorRecipe) -> None:
    layer, read = random_layer(), []

    def noting(part: str, matrices: Sequence[Matrix]) -> Callable[[int], Matrix]:
        return lambda index: (read.append((part, index)), matrices[index])[1]

    with WeightFile(tmp_path / "weights") as file:
        pen = GraphPen("mixture", file)
        x, logits = (pen.input(name, ir.DataType.FLOAT, ("B", "T", name)) for name in ("x", "logits"))
        parts = {"gate_up": noting("gate_up", layer.gate_ups), "down": noting("down", layer.downs)}
        mixture(OrtKernels(pen), x, logits, layer.experts, name="experts", rule=rule, **parts)
    assert sorted(read) == [(part, index) for part in ("down", "gate_up") for index in range(6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_active": 9}, "9 of 8 experts"),
        ({"num_active": 0}, "0 of 8 experts"),
        ({"num_experts": 0}, "2 of 0 experts"),
        ({"intermediate_size": 0}, "inner size.*found 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"num_experts": 8, "num_active": 2, "intermediate_size": 4, "normalized": True}
    with pytest.raises(CheckpointError, match=message):
        Experts(**settings | change, layers=(True,))

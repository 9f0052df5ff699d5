"""Every operator of our graphs: a row has the same bits, however many rows are fed. Two are exceptions, and known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skipstone.quant.tensor_recipe import DEFAULT_GROUP_SIZES, FAST_GROUP_SIZE

Rows = NDArray[np.float32]
RANDOM = np.random.default_rng(0)
COUNTS = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 64, 127, 128, 129)
MOST = 129
WIDTH, OUT, HEADS, SIZE = 192, 72, 4, 32


def session(nodes: list[onnx.NodeProto], inputs: Mapping[str, list[Any]], weights: Mapping[str, Any]) -> Any:
    """Return a session on nodes whose last output is y; inputs are float32 unless they end in an integer's name."""
    types = {"seqlens": TensorProto.INT32, "total": TensorProto.INT32, "positions": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "rows",
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), dims)
            for name, dims in inputs.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def node(operator: str, *inputs: str, domain: str = "com.microsoft", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], domain=domain, **attributes)


def numbers(*shape: int) -> Rows:
    return RANDOM.standard_normal(shape).astype(np.float32)


def depends_on_others(run: Any) -> list[int]:
    """Return for which numbers of rows the rows have other bits than among the most."""
    whole = run(MOST)
    return [count for count in COUNTS if not np.array_equal(run(count), whole[:count])]


def of_rows(graph: Any, *, width: int = WIDTH) -> Any:
    x = numbers(MOST, width)
    return lambda count: graph.run(None, {"x": x[:count]})[0]


def product(bits: int, block: int, *, zero_points: bool) -> Any:
    blocks = -(-WIDTH // block)
    weights = {
        "codes": RANDOM.integers(0, 256, (OUT, blocks, block * bits // 8), dtype=np.uint8),
        "scales": np.abs(numbers(OUT, blocks)),
    }
    if zero_points:
        weights["zeros"] = RANDOM.integers(0, 256, (OUT, -(-blocks * bits // 8)), dtype=np.uint8)
    made = node("MatMulNBits", "x", *weights, K=WIDTH, N=OUT, bits=bits, block_size=block, accuracy_level=4)
    return of_rows(session([made], {"x": ["T", WIDTH]}, weights))


PLAIN: Mapping[str, Any] = {
    "MatMul": lambda: of_rows(
        session([node("MatMul", "x", "w", domain="")], {"x": ["T", WIDTH]}, {"w": numbers(WIDTH, OUT)})
    ),
    "Gemm": lambda: of_rows(
        session([node("Gemm", "x", "w", domain="", transB=1)], {"x": ["T", WIDTH]}, {"w": numbers(OUT, WIDTH)})
    ),
    "SimplifiedLayerNormalization": lambda: of_rows(
        session(
            [node("SimplifiedLayerNormalization", "x", "g", domain="", axis=-1)],
            {"x": ["T", WIDTH]},
            {"g": numbers(WIDTH)},
        )
    ),
    "LayerNormalization": lambda: of_rows(
        session(
            [node("LayerNormalization", "x", "g", "b", domain="", axis=-1)],
            {"x": ["T", WIDTH]},
            {"g": numbers(WIDTH), "b": numbers(WIDTH)},
        )
    ),
    "SkipSimplifiedLayerNormalization": lambda: of_rows(
        session([node("SkipSimplifiedLayerNormalization", "x", "x", "g")], {"x": ["T", WIDTH]}, {"g": numbers(WIDTH)})
    ),
    "SkipLayerNormalization": lambda: of_rows(
        session(
            [node("SkipLayerNormalization", "x", "x", "g", "b")],
            {"x": ["T", WIDTH]},
            {"g": numbers(WIDTH), "b": numbers(WIDTH)},
        )
    ),
    "QuickGelu": lambda: of_rows(session([node("QuickGelu", "x", alpha=1.0)], {"x": ["T", WIDTH]}, {})),
    "Gelu": lambda: of_rows(session([node("Gelu", "x", domain="", approximate="tanh")], {"x": ["T", WIDTH]}, {})),
    "Softmax": lambda: of_rows(session([node("Softmax", "x", domain="")], {"x": ["T", WIDTH]}, {})),
    "Tanh": lambda: of_rows(session([node("Tanh", "x", domain="")], {"x": ["T", WIDTH]}, {})),
    # The sum of embeddings, one matrix of one row for each token.
    "MatMul of a blend": lambda: of_rows(
        session(
            [
                helper.make_node("Unsqueeze", ["x", "last"], ["rows"]),
                helper.make_node("MatMul", ["one", "rows"], ["y"]),
            ],
            {"x": ["T", WIDTH]},
            {"last": np.array([1]), "one": np.ones((1, 1, 1), np.float32)},
        )
    ),
}
# They copy, choose or compute each number alone.
CARRIED = {"Add", "Mul", "Div", "Sub", "Clip", "Relu", "Gather", "GatherBlockQuantized", "Slice", "Split", "Concat"}
CARRIED |= {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Where", "Less", "Sqrt", "Max", "TopK", "Sigmoid"}
CARRIED |= {
    "Sum",
    "OneHot",
    "Pad",
    "Expand",
    "Shape",
    "ReduceSum",
    "ReduceMean",
    "Mean",
    "Reciprocal",
    "Equal",
    "ScatterElements",
    "Tile",
}
BY_RULE = {"GroupQueryAttention", "MatMulNBits", "QMoE", "MoE"}


@pytest.mark.parametrize("operator", PLAIN)
def test_a_row_does_not_depend_on_the_others(operator: str) -> None:
    assert depends_on_others(PLAIN[operator]()) == []


@pytest.mark.parametrize("family", ["llama", "gemma3n_text", "gpt2, quick gelu", "qwen3_moe", "phi3"])
def test_there_is_no_other_operator_in_our_graphs(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    bundle = Path(make_bundle(checkpoint, precision="int4"))
    known = {name.split()[0] for name in PLAIN} | CARRIED | BY_RULE
    for path in bundle.glob("*.onnx"):
        used = {step.op_type for step in onnx.load(path, load_external_data=False).graph.node}
        assert used <= known, used - known


# Products of integers


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(8, 32), (8, DEFAULT_GROUP_SIZES[8]), (4, 16)])
def test_a_row_of_a_product_of_integers_does_not_depend_on_the_others(bits: int, block: int, zero_points: bool) -> None:
    assert depends_on_others(product(bits, block, zero_points=zero_points)) == []


@pytest.mark.parametrize("zero_points", [False, True])
def test_in_blocks_of_32_only_a_row_alone_may_round_otherwise(zero_points: bool) -> None:
    """With AVX-512 VNNI it does not; with AVX2 it does, and `measure_rounding` finds the rule."""
    assert depends_on_others(product(4, DEFAULT_GROUP_SIZES[4], zero_points=zero_points)) in ([], [1])


def test_in_large_blocks_pairs_of_rows_have_the_same_bits() -> None:
    run = product(4, FAST_GROUP_SIZE, zero_points=True)
    assert not [count for count in depends_on_others(run) if count % 2 == 0]


# Attention


def attention(length: int, *, window: int = -1, softcap: float = 0.0) -> Any:
    """Return (rows by number) -> what attention mixes for them behind `length` cached rows."""
    made = helper.make_node(
        "GroupQueryAttention",
        ["x", "", "", "keys", "values", "seqlens", "total", "cosines", "sines", "positions", "bias"],
        ["y", "present_keys", "present_values"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=HEADS // 2,
        do_rotary=1,
        local_window_size=window,
        softcap=softcap,
    )
    room = length + MOST + 1
    cache, angles = [1, HEADS // 2, room, SIZE], np.outer(np.arange(room), 0.1 ** np.arange(SIZE // 2))
    graph = session(
        [made],
        {
            "x": [1, "A", 2 * HEADS * SIZE],
            "keys": cache,
            "values": cache,
            "seqlens": [1],
            "total": [],
            "positions": [1, "A"],
            "bias": [1, 1, "A", "S"],
        },
        {"cosines": np.cos(angles).astype(np.float32), "sines": np.sin(angles).astype(np.float32)},
    )
    x, keys, values = numbers(MOST, 2 * HEADS * SIZE), numbers(*cache), numbers(*cache)

    def run(row_ids: NDArray[np.int64]) -> Rows:
        num_rows = len(row_ids)
        total = length + num_rows
        past = {"keys": ort.OrtValue.ortvalue_from_numpy(keys.copy())}
        past["values"] = ort.OrtValue.ortvalue_from_numpy(values.copy())
        binding = graph.io_binding()
        for name, value in {
            "x": x[None, row_ids],
            "seqlens": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
            "positions": length + row_ids[None],
            "bias": np.zeros((1, 1, num_rows, total), np.float32),
        }.items():
            binding.bind_cpu_input(name, value)
        for name, value in past.items():  # written in place
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("y")
        graph.run_with_iobinding(binding)
        mixed: Rows = binding.copy_outputs_to_cpu()[0][0]
        return mixed

    return run


@pytest.mark.parametrize("settings", [{}, {"window": 20}, {"softcap": 30.0}], ids=["whole", "window", "softcap"])
@pytest.mark.parametrize("length", [0, 24, 600])
def test_a_row_of_attention_depends_on_being_alone_only(length: int, settings: dict[str, Any]) -> None:
    run = attention(length, **settings)
    alone = depends_on_others(lambda count: run(np.arange(count)))
    assert set(alone) <= {1, 129}, "attention takes many rows in pieces of 128 or so, the last of which is one row"
    assert depends_on_others(lambda count: run(np.append(np.arange(count), count - 1))[:count]) == []

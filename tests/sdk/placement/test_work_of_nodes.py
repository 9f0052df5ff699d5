"""Multiply-adds by operator, against numbers counted by hand."""

from __future__ import annotations

import pytest
from graphs import FLOAT, model_of, weight
from onnx import TensorProto, helper

from skipstone.placement.graph import CheckedGraph, sizes_of

MS = "com.microsoft"


def work(model, *, rows: int = 1, context: int = 64) -> tuple[int | None, ...]:
    return CheckedGraph.of(model, numbers=sizes_of(model, rows=rows, context=context), context=context).work


def node(operator: str, inputs: list[str], outputs: list[str] = ["y"], domain: str = "", **attributes):  # noqa: B006
    return helper.make_node(operator, inputs, outputs, domain=domain, **attributes)


def test_a_product_multiplies_each_row_with_each_column() -> None:
    model = model_of([node("MatMul", ["x", "w"])], {"x": ["B", "T", 8]}, weights=[weight("w", 8, 5)])
    assert work(model, rows=3) == (3 * 8 * 5,)


def test_a_product_of_two_inputs_counts_its_batches() -> None:
    model = model_of([node("MatMul", ["x", "z"])], {"x": [1, 4, 3, 16], "z": [1, 4, 16, 7]})
    assert work(model) == (4 * 3 * 16 * 7,)


def test_a_gemm_reads_the_inner_size_from_the_side_that_is_turned() -> None:
    model = model_of([node("Gemm", ["x", "w"], transA=1)], {"x": [8, 2]}, weights=[weight("w", 8, 5)])
    assert work(model) == (2 * 8 * 5,)


def test_a_quantized_product_counts_as_the_product_it_stands_for() -> None:
    weights = [weight("w", 5, 1, 16, data_type=TensorProto.UINT8), weight("s", 5, 1)]
    quantized = node("MatMulNBits", ["x", "w", "s"], domain=MS, K=32, N=5, bits=4, block_size=32)
    assert work(model_of([quantized], {"x": ["B", "T", 32]}, weights=weights), rows=2) == (2 * 32 * 5,)


def test_attention_counts_scores_and_sums_over_the_whole_cache() -> None:
    inputs = {"qkv": ["B", "T", (4 + 2 * 2) * 16], "k": ["B", 2, "C", 16], "v": ["B", 2, "C", 16]}
    attention = node("GroupQueryAttention", ["qkv", "", "", "k", "v"], domain=MS, num_heads=4, kv_num_heads=2)
    assert work(model_of([attention], inputs), rows=3, context=50) == (2 * 3 * 4 * 16 * 50,)


def test_a_window_bounds_what_attention_counts() -> None:
    inputs = {"qkv": ["B", "T", 8 * 16], "k": ["B", 2, "C", 16], "v": ["B", 2, "C", 16]}
    attention = node(
        "GroupQueryAttention", ["qkv", "", "", "k", "v"], domain=MS, num_heads=4, kv_num_heads=2, local_window_size=10
    )
    assert work(model_of([attention], inputs), context=50) == (2 * 4 * 16 * 10,)


def test_the_standard_attention_adds_the_cache_before_the_keys() -> None:
    inputs = {"q": [1, 4, 3, 16], "k": [1, 2, 3, 16], "v": [1, 2, 3, 16], "pk": [1, 2, 40, 16], "pv": [1, 2, 40, 16]}
    attention = node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "ok", "ov"])
    assert work(model_of([attention], inputs, opset=23)) == (2 * 4 * 3 * 16 * 43,)


def test_experts_count_those_that_a_row_goes_through() -> None:
    weights = [
        weight("up", 4, 2 * 24, 16, data_type=TensorProto.UINT8),
        weight("us", 4, 2 * 24),
        weight("down", 4, 32, 12, data_type=TensorProto.UINT8),
        weight("ds", 4, 32),
    ]
    experts = node(
        "QMoE",
        ["x", "p", "up", "us", "", "down", "ds"],
        domain=MS,
        k=2,
        activation_type="swiglu",
        swiglu_fusion=1,
        expert_weight_bits=4,
    )
    assert work(model_of([experts], {"x": [3, 32], "p": [3, 4]}, weights=weights)) == (3 * 2 * 32 * (48 + 24),)


def test_a_convolution_counts_its_kernel_at_each_place() -> None:
    model = model_of([node("Conv", ["x", "w"])], {"x": [1, 8, 1, 10]}, weights=[weight("w", 6, 8, 1, 3)])
    assert work(model) == (6 * 8 * 3 * 8,)


def test_what_is_no_product_counts_as_nothing_even_where_its_sizes_are_unknown() -> None:
    model = model_of([node("Mul", ["x", "x"])], {"x": ["what", "ever"]})
    assert work(model) == (0,)


def test_a_product_behind_an_operator_that_nobody_knows_has_no_known_work() -> None:
    nodes = [node("Stir", ["x"], ["s"], domain="com.acme"), node("MatMul", ["s", "t"])]
    model = model_of(nodes, {"x": ["B", "T", 8], "t": ["a", "b"]})
    assert work(model) == (0, None)


@pytest.mark.parametrize("past", ["past_sequence_length + sequence_length", "past_sequence_length + 1"])
def test_sizes_that_optimum_names_are_numbers_too(past: str) -> None:
    nodes = [node("MatMul", ["q", "k"])]
    model = model_of(nodes, {"q": ["batch_size", 4, "sequence_length", 16], "k": ["batch_size", 4, 16, past]})
    assert work(model, rows=2, context=30) == (4 * 2 * 16 * 30,)


def test_a_traced_graph_with_shape_computations_is_counted_to_its_end() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["t"]),
        node("Concat", ["t", "minus"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["flat"]),
        node("MatMul", ["flat", "w"]),
    ]
    weights = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("minus", TensorProto.INT64, [1], [-1]),
        weight("w", 8, 5),
    ]
    model = model_of(nodes, {"x": ["batch_size", "sequence_length", 8]}, weights=weights)
    assert work(model, rows=3)[-1] == 3 * 8 * 5


def test_sizes_that_a_graph_computes_in_a_way_that_onnx_does_not_follow_are_found_too() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["t"]),
        node("Range", ["zero", "t", "one"], ["places"]),
        node("Gather", ["table", "places"], ["rows"]),
        node("MatMul", ["rows", "w"]),
    ]
    weights = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        weight("table", 64, 8),
        weight("w", 8, 5),
    ]
    model = model_of(nodes, {"x": ["batch_size", "sequence_length", 8]}, weights=weights)
    assert work(model, rows=3)[-1] == 3 * 8 * 5


def test_weights_in_the_graph_file_do_not_hinder() -> None:
    large = helper.make_tensor("w", FLOAT, [256, 128], b"\0" * 4 * 256 * 128, raw=True)
    model = model_of([node("MatMul", ["x", "w"])], {"x": ["B", "T", 256]}, weights=[large])
    assert work(model) == (256 * 128,)

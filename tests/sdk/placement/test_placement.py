"""Node by node where graphs would run: reasons, shares, pieces, and who answers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import MakeBundle, MakeCheckpoint
from graphs import model_of, saved, weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from skipstone.devices import Door
from skipstone.errors import BundleError, ConfigError
from skipstone.placement import check_target
from skipstone.placement.placement import GraphPlacement, Target, place_graph
from skipstone.placement.rules import rules_of
from skipstone.runtime.bundle import Bundle


def node(operator: str, inputs: list[str], output: str = "y", domain: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], domain=domain, **attributes)


def by_table(name: str) -> Target:
    return Target(name=name, rules=rules_of(name), door=None)


def placed(model: onnx.ModelProto, folder: Path, target: str | Target) -> GraphPlacement:
    chosen = by_table(target) if isinstance(target, str) else target
    return place_graph(saved(model, folder), chosen, rows=1, context=8)


def reasons(placement: GraphPlacement) -> dict[str, str | None]:
    return {node.operator: node.reason for node in placement.nodes}


@pytest.fixture
def bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Bundle:
    return Bundle.open(make_bundle(make_checkpoint(), precision="int4"))


@pytest.mark.parametrize("target", ["nnapi", "coreml", "xnnpack", "qnn", "cuda", "webgpu", "openvino", "android-cpu"])
@pytest.mark.parametrize("exits", ["none", "auto"])
def test_every_node_is_counted_once(
    target: str, exits: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    opened = Bundle.open(make_bundle(make_checkpoint(), precision="int4", exits=exits))
    placement = check_target(opened, target)
    assert len(placement.graphs) == len(opened.manifest.stages) + (opened.manifest.head is not None)
    for graph in placement.graphs:
        nodes = onnx.load(opened.path / graph.file, load_external_data=False).graph.node
        folded = sum(node.folded for node in graph.nodes)
        elsewhere = sum(group.num_nodes for group in graph.elsewhere)
        assert len(graph.taken) + elsewhere + folded == len(nodes) == len(graph.nodes)
        assert graph.taken_work + sum(group.work for group in graph.elsewhere) == graph.work
        assert graph.num_unknown == 0
    assert 0 <= placement.work_share <= 1


def test_the_work_of_a_step_is_that_of_its_matrices_and_its_cache(bundle: Bundle) -> None:
    dims, context = bundle.manifest.dimensions, 100
    (graph,) = check_target(bundle, "nnapi", context=context).graphs
    width, kv_width = dims.num_heads * 16, dims.num_kv_heads * 16
    layer = dims.hidden_size * (2 * width + 2 * kv_width + 3 * dims.intermediate_size)
    cache = 2 * width * context
    head, blend = dims.hidden_size * dims.vocab_size, dims.hidden_size
    assert graph.work == dims.num_layers * (layer + cache) + head + blend


def test_a_bundle_of_fused_operators_has_nothing_for_nnapi_and_says_what_to_do(bundle: Bundle) -> None:
    placement = check_target(bundle, "nnapi")
    (graph,) = placement.graphs
    assert (placement.work_share, graph.partitions) == (0, 0)
    reasons = {group.operator: group.reason for group in graph.elsewhere}
    assert reasons["com.microsoft:MatMulNBits"] == "com.microsoft:MatMulNBits is not an operator of NNAPI"
    assert reasons["Mul"] == "dynamic shapes"
    (change,) = placement.changes
    assert "com.microsoft:MatMulNBits" in change
    assert f"skipstone export {bundle.manifest.provenance.source} -o NEW --target " in change


def test_the_cpu_takes_all_of_it_in_one_piece_and_answers_itself(bundle: Bundle) -> None:
    placement = check_target(bundle, "android-cpu")
    (graph,) = placement.graphs
    assert graph.origin.startswith("CPUExecutionProvider itself")
    assert (placement.node_share, placement.work_share, graph.partitions) == (1, 1, 1)
    assert placement.changes == ()


def test_casts_of_weights_are_computed_when_the_graph_is_loaded(bundle: Bundle) -> None:
    (graph,) = check_target(bundle, "coreml").graphs
    folded = [node for node in graph.nodes if node.folded]
    assert folded and {node.operator for node in folded} == {"Cast"}


def test_sizes_that_do_not_fit_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="9 rows and a context of 8"):
        check_target(bundle, "nnapi", rows=9, context=8)
    with pytest.raises(ConfigError, match="ends at 256"):
        check_target(bundle, "nnapi", context=257)


def test_the_names_of_devices_are_targets_too(bundle: Bundle) -> None:
    assert check_target(bundle, "cuda:1").graphs[0].elsewhere[0].reason == "float input"
    with pytest.raises(ConfigError, match="directml can be asked only where its provider is: pip install"):
        check_target(bundle, "directml")
    with pytest.raises(ConfigError, match=r"target 'npu' is not known; known are android-cpu, .*xnnpack"):
        check_target(bundle, "npu")


def test_all_graphs_of_a_bundle_can_be_checked(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    opened = Bundle.open(make_bundle(make_checkpoint(), exits="2", cache="int8"))
    some, every = (check_target(opened, "nnapi", every_graph=wide).graphs for wide in (False, True))
    assert {graph.file for graph in some} < {graph.file for graph in every}
    assert {graph.file for graph in every} == {name for name in opened.manifest.files if name.endswith(".onnx")}


def test_an_operator_that_nobody_knows_stays_on_the_cpu(tmp_path: Path) -> None:
    model = model_of([node("Stir", ["x"], domain="com.acme")], {"x": [2, 4]})
    assert reasons(placed(model, tmp_path, "nnapi")) == {"com.acme:Stir": "com.acme:Stir is not an operator of NNAPI"}
    assert reasons(placed(model, tmp_path, "cuda")) == {"com.acme:Stir": "com.acme:Stir is not in the table of CUDA"}


def test_a_graph_that_onnxruntime_does_not_open_says_so(tmp_path: Path) -> None:
    model = model_of([node("Stir", ["x"], domain="com.acme")], {"x": [2, 4]})
    placement = placed(model, tmp_path, Target.named("cpu"))
    assert placement.trouble is not None and "Stir" in placement.trouble
    assert reasons(placement) == {"com.acme:Stir": "the CPU provider does not open the graph"}


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"\xff not a graph")
    with pytest.raises(BundleError, match=r"graph\.onnx is no ONNX graph"):
        place_graph(tmp_path / "graph.onnx", by_table("nnapi"), rows=1, context=8)


def test_a_provider_that_is_here_is_asked_and_the_table_says_why_it_leaves_a_node(tmp_path: Path) -> None:
    azure = Door(name="nnapi", provider="AzureExecutionProvider", install="nothing")  # built in, takes no operator
    target = Target(name="nnapi", rules=rules_of("nnapi"), door=azure)
    model = model_of([node("Erf", ["x"], "e"), node("Relu", ["e"])], {"x": [2, 4]})
    placement = placed(model, tmp_path, target)
    assert placement.origin.startswith("AzureExecutionProvider itself")
    assert reasons(placement) == {
        "Erf": "Erf is not an operator of NNAPI",
        "Relu": "NNAPI itself leaves it to the CPU",
    }


@pytest.mark.parametrize("name", ["qnn", "webgpu"])
def test_a_plug_in_that_is_installed_and_finds_hardware_is_asked(name: str, tmp_path: Path) -> None:
    target = Target.named(name)
    if target.door is None:
        pytest.skip(f"the plug-in of {name} is not installed here, or finds no hardware")
    weights = [weight("w", 16, 8)]
    model = model_of([node("MatMul", ["x", "w"], "m"), node("Erf", ["m"])], {"x": [4, 16]}, weights=weights)
    placement = placed(model, tmp_path, target)
    assert placement.origin.startswith(f"{target.door.provider} itself")
    assert reasons(placement)["MatMul"] is None


@pytest.mark.parametrize(
    ("shape", "reason"),
    [([2, 4], None), (["T", 4], "dynamic shapes"), ([1, 2, 4], "input 0 has 3 dimensions")],
)
def test_nnapi_multiplies_matrices_of_fixed_sizes(shape: list[int | str], reason: str | None, tmp_path: Path) -> None:
    model = model_of([node("MatMul", ["x", "w"])], {"x": shape}, weights=[weight("w", 4, 5)])
    assert reasons(placed(model, tmp_path, "nnapi")) == {"MatMul": reason}


def test_one_of_several_conditions_is_enough(tmp_path: Path) -> None:
    model = model_of([node("MatMul", ["x", "z"])], {"x": [2, 3, 4], "z": [2, 4, 5]})
    assert reasons(placed(model, tmp_path, "nnapi")) == {"MatMul": None}
    assert reasons(placed(model, tmp_path, "xnnpack"))["MatMul"] is not None


@pytest.mark.parametrize(("lengths", "reason"), [([2, 2], None), ([3, 1], "pieces of several lengths")])
def test_nnapi_splits_into_equal_pieces(lengths: list[int], reason: str | None, tmp_path: Path) -> None:
    split = helper.make_node("Split", ["x", "lengths"], ["y", "z"], axis=1)
    stored = helper.make_tensor("lengths", TensorProto.INT64, [2], lengths)
    assert reasons(placed(model_of([split], {"x": [2, 4]}, weights=[stored]), tmp_path, "nnapi")) == {"Split": reason}


def test_numbers_of_another_type_are_left(tmp_path: Path) -> None:
    model = model_of([node("Relu", ["x"])], {"x": [2, 4]}, data_type=TensorProto.FLOAT16)
    assert reasons(placed(model, tmp_path, "nnapi")) == {"Relu": "float16 input"}
    assert reasons(placed(model, tmp_path, "coreml")) == {"Relu": None}


def test_attributes_count(tmp_path: Path) -> None:
    def reason(alpha: float) -> str | None:
        gemm = node("Gemm", ["x", "w"], alpha=alpha)
        return reasons(placed(model_of([gemm], {"x": [2, 4]}, weights=[weight("w", 4, 5)]), tmp_path, "xnnpack"))[
            "Gemm"
        ]

    assert reason(1.0) is None
    assert reason(0.5) == "alpha is 0.5"


def test_weights_in_another_file_are_nothing_for_nnapi(tmp_path: Path) -> None:
    model = model_of([node("MatMul", ["x", "w"])], {"x": [2, 64]}, weights=[weight("w", 64, 64)])
    assert reasons(placed(model, tmp_path, "nnapi")) == {"MatMul": None}
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    apart = place_graph(tmp_path / "apart.onnx", by_table("nnapi"), rows=1, context=8)
    assert reasons(apart) == {"MatMul": "its weights stand in another file"}


def test_a_dequantized_weight_is_constant_only_where_the_product_is_quantized_as_a_whole(tmp_path: Path) -> None:
    int8 = TensorProto.INT8
    weights = [weight("w", 4, 5, data_type=int8), weight("s"), weight("xs"), weight("z", data_type=int8)]
    dequantize = node("DequantizeLinear", ["w", "s", "z"], "wd")
    whole = [
        node("QuantizeLinear", ["x", "xs", "z"], "q"),
        node("DequantizeLinear", ["q", "xs", "z"], "xd"),
        dequantize,
        node("MatMul", ["xd", "wd"]),
    ]
    alone = [dequantize, node("MatMul", ["x", "wd"])]
    model = model_of(whole, {"x": [2, 4]}, weights=weights)
    assert reasons(placed(model, tmp_path, "nnapi"))["MatMul"] is None
    model = model_of(alone, {"x": [2, 4]}, weights=weights)
    assert reasons(placed(model, tmp_path, "nnapi"))["MatMul"] == "input 1 is no constant"


def test_nodes_of_subgraphs_are_counted_with_the_others(tmp_path: Path) -> None:
    empty: list[onnx.ValueInfoProto] = []
    out = [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 4])]
    branch = helper.make_graph([node("Erf", ["x"], "b")], "branch", empty, out)
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = model_of([choice], {"x": [2, 4]})
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    placement = placed(model, tmp_path, Target.named("cpu"))
    assert [node.operator for node in placement.nodes] == ["If", "Erf", "Erf"]
    assert len(placement.taken) == 3


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_chain_has_as_many_pieces_as_runs_that_are_taken(taken: list[bool]) -> None:
    from skipstone.placement.partitions import num_partitions

    names = [f"v{place}" for place in range(len(taken) + 1)]
    nodes = [node("Relu", [first], second) for first, second in pairwise(names)]
    runs = sum(now and not before for before, now in zip([False, *taken], taken, strict=False))
    graph = model_of(nodes, {"v0": [2]}, outputs=[names[-1]]).graph
    assert num_partitions(graph, {name for name, yes in zip(names[1:], taken, strict=True) if yes}) == runs


def test_a_graph_of_optimum_is_checked_like_any_other(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["table", "input_ids"], "e"),
        node("MatMul", ["e", "w"], "q"),
        node("Transpose", ["past_key_values.0.key"], "k", perm=[0, 2, 1]),
        node("MatMul", ["q", "k"]),
    ]
    weights = [weight("table", 10, 8), weight("w", 8, 8)]
    inputs: dict[str, list[int | str]] = {"past_key_values.0.key": ["batch_size", "past_sequence_length", 8]}
    model = model_of(nodes, inputs, weights=weights)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    model.graph.input.append(ids)
    placement = placed(model, tmp_path, "coreml")
    assert placement.work == 8 * 8 + 8 * 7
    assert [one.reason for one in placement.nodes] == ["Gather is not an operator of Core ML", None, None, None]

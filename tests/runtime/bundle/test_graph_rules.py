"""Graphs of strangers: only what exports write is opened, and only where it fits the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from altered_bundles import fit_manifest
from conftest import MakeBundle
from onnx import TensorProto, helper, numpy_helper

from skipstone.errors import BundleError
from skipstone.runtime.bundle import OPERATORS, TRACED_OPERATORS, GraphOutline
from skipstone.runtime.engine import Model

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return Path(shutil.copytree(make_bundle(tiny_checkpoint), tmp_path / "bundle"))


def changed(place: Path, change: Change) -> Path:
    """Change the graph of a bundle, and list it as an attacker would."""
    graph = onnx.load(place / "stage-00.onnx", load_external_data=False)
    change(graph)
    (place / "stage-00.onnx").write_bytes(graph.SerializeToString())
    return fit_manifest(place)


def endless_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(2**62, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "yes"),
        ]
    )
    model.graph.node.append(helper.make_node("Loop", ["turns", "yes"], [], body=body))


def doubling_functions(model: onnx.ModelProto) -> None:
    for number in range(60):
        called = f"double_{number - 1}" if number else "Identity"
        domain = "local" if number else ""
        nodes = [
            helper.make_node(called, ["x"], ["y"], domain=domain),
            helper.make_node(called, ["y"], ["z"], domain=domain),
        ]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", f"double_{number}", ["x"], ["z"], nodes, opsets))


def another_file(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.external_data[0].value = "../secret"


def behind_the_end(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    for entry in tensor.external_data:
        if entry.key == "offset":
            entry.value = str(1 << 40)


def set_size(name: str, axis: int, size: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (value,) = (value for value in [*model.graph.input, *model.graph.output] if value.name == name)
        value.type.tensor_type.shape.dim[axis].dim_value = size

    return change


def rename(old: str, new: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in [*model.graph.input, *model.graph.output]:
            value.name = value.name.replace(old, new)

    return change


def set_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


REFUSED: dict[str, tuple[Change, str]] = {
    "a loop of 2 ** 62 turns": (endless_loop, "functions, or graphs or sparse tensors inside"),
    "functions that double": (doubling_functions, "functions, or graphs or sparse tensors inside"),
    "an operator that no export writes": (
        lambda model: model.graph.node.append(helper.make_node("Unique", ["token_ids"], ["unique"])),
        "no export writes the operator 'Unique'",
    ),
    "an operator of another domain": (
        lambda model: model.graph.node.append(helper.make_node("Add", ["x", "x"], ["y"], domain="com.stranger")),
        "no export writes the operator 'com.stranger:Add'",
    ),
    "another file": (another_file, "tensors lie in '../secret', which the manifest does not list"),
    "behind the end of a file": (behind_the_end, r"tensors lie behind the end of weights\.bin"),
    "heads of another size": (set_size("past_key_0", 3, 12), r"input 'past_key_0' has shape .*, .* wanted"),
    "another vocabulary": (set_size("logits", 1, 306), r"output 'logits' has shape \[R, 306\], \[R, 307\] wanted"),
    "no logits": (lambda model: model.graph.output.pop(), "it has no output 'logits'"),
    "a layer too many": (rename("past_key_0", "past_key_9"), "input 'past_key_9' is unknown"),
    "an input that nobody feeds": (rename("seqlens_k", "lengths"), "input 'lengths' is unknown"),
    "an input twice": (rename("past_key_0", "past_key_1"), "an input or output stands twice"),
    "an input of another type": (set_type, "has type 1, 7 wanted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_no_export_writes_is_refused_before_it_is_opened(place: Path, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(BundleError, match=f"^stage-00.onnx does not fit the manifest: .*{message}"):
        Model.open(changed(place, change))


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 50, b":\xff\xff\xff\xff\x0f", b"hello " * 9])
def test_what_is_no_graph_is_refused(place: Path, content: bytes) -> None:
    (place / "stage-00.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"^stage-00\.onnx is no ONNX graph: .*"):
        Model.open(fit_manifest(place))


def test_the_outline_is_what_onnx_reads(place: Path) -> None:
    outline, model = GraphOutline.read(place / "stage-00.onnx"), onnx.load(place / "stage-00.onnx")
    assert outline.operators == {
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in model.graph.node
    }
    for arguments, values in ((outline.inputs, model.graph.input), (outline.outputs, model.graph.output)):
        assert [(argument.name, argument.element_type, list(argument.shape)) for argument in arguments] == [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]
    assert outline.weights == {"weights.bin": (place / "weights.bin").stat().st_size}
    assert not outline.is_nested


def test_no_operator_that_is_allowed_holds_a_graph() -> None:
    holding = {"If", "Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling"}
    assert not {name.rpartition(":")[2] for name in TRACED_OPERATORS} & holding
    assert OPERATORS < TRACED_OPERATORS

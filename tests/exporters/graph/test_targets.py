"""What each target may have in its graphs: operators, opsets, types, and whether all shapes are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES

from skipstone.errors import ConfigError
from skipstone.exporters import ExportOptions
from skipstone.exporters.graph import TARGETS
from skipstone.runtime.bundle import Bundle

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
# What graphs of fixed shapes are made of, beside the operators that choose tokens' rows and experts.
PARTS = {"Add", "Concat", "Div", "Gather", "MatMul", "Mul", "ReduceMean", "Reshape", "Sigmoid", "Softmax", "Split"}
PARTS |= {"Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Gemm", "Gelu"}
MIXING = {"TopK", "OneHot", "Unsqueeze", "Shape"}
STREAMS = {"Unsqueeze", "Mean", "Max", "Sum", "Relu", "Less", "Where", "Slice"}


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The domains, and the type of numbers, of a target's graphs; `fixed`: there are some whose shapes are known."""

    opsets: dict[str, int]
    numbers: int = FLOAT
    fixed: bool = False


FUSED, STANDARD = {"": 21, "com.microsoft": 1}, {"": 23}
ALLOWED = {
    "ort": Allowed(opsets=FUSED),
    "android-cpu": Allowed(opsets=FUSED),
    "cuda": Allowed(opsets=FUSED, numbers=HALF),
    "plain": Allowed(opsets=STANDARD),
    "xnnpack": Allowed(opsets=STANDARD, fixed=True),
    "nnapi": Allowed(opsets=STANDARD, fixed=True),
    "coreml": Allowed(opsets=STANDARD, numbers=HALF, fixed=True),
    "qnn": Allowed(opsets=STANDARD, numbers=HALF, fixed=True),
}
FAMILIES = {"llama, tied": set[str](), "gpt2": set[str](), "gemma2": set[str](), "mixtral": MIXING}
FAMILIES |= {"gemma3n_text": STREAMS, "phi": set()}


@pytest.fixture(scope="module")
def bundle_of(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Any:
    def make(family: str, target: str, **options: Any) -> Path:
        case = CASES[family if family in CASES else next(name for name in CASES if name.startswith(family))]
        checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
        sizes = {"buckets": "1,4x16"} if ALLOWED[target].fixed else {}
        return make_bundle(checkpoint, target=target, precision=None, **sizes, **options)

    return make


def test_every_target_has_its_row_here() -> None:
    assert ALLOWED.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_hold_what_the_target_allows(bundle_of: Any, family: str, target: str) -> None:
    allowed, bundle = ALLOWED[target], bundle_of(family, target)
    manifest = Bundle.open(bundle).manifest
    assert manifest.target == target
    assert {layer.dtype for layer in manifest.cache} == {"float16" if allowed.numbers == HALF else "float32"}
    for file in bundle.glob("*.onnx"):
        if "com.microsoft" not in allowed.opsets:
            onnx.checker.check_model(file)
        model = onnx.load(file, load_external_data=False)
        assert {opset.domain: opset.version for opset in model.opset_import} == allowed.opsets
        assert {node.domain for node in model.graph.node} <= allowed.opsets.keys()
        types = {tensor.data_type for tensor in model.graph.initializer} & {FLOAT, HALF, onnx.TensorProto.DOUBLE}
        scales = {HALF} if target in ("ort", "android-cpu", "plain") else set[int]()  # those that lose nothing so
        assert types <= {allowed.numbers, *scales}
        if "rows-" in file.name:
            assert {node.op_type for node in model.graph.node} - {"Cast"} <= PARTS | FAMILIES[family]
            require_known_shapes(model)
    assert any("rows-" in file.name for file in bundle.glob("*.onnx")) == allowed.fixed


def require_known_shapes(model: onnx.ModelProto) -> None:
    """Raise AssertionError unless every value has a shape of numbers, which shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = {value.name: value for value in (*inferred.input, *inferred.output, *inferred.value_info)}
    for node in inferred.node:
        for name in filter(None, node.output):
            shape = values[name].type.tensor_type.shape
            assert values[name].type.tensor_type.HasField("shape"), name
            assert all(size.HasField("dim_value") for size in shape.dim), f"{name} of {node.op_type}"


def test_all_graphs_read_one_file_of_weights_that_holds_each_once(bundle_of: Any) -> None:
    """Graphs of fixed shapes bring no bytes of their own: the file is that of the free graphs alone."""
    bundle = bundle_of("llama, tied", "xnnpack", exits="auto")
    places: dict[str, set[tuple[str, str]]] = {}
    for file in bundle.glob("*.onnx"):
        for tensor in onnx.load(file, load_external_data=False).graph.initializer:
            if tensor.external_data:
                entry = {one.key: one.value for one in tensor.external_data}
                assert entry["location"] == "weights.bin"
                places.setdefault(tensor.name, set()).add((entry["offset"], entry["length"]))
    assert all(len(own) == 1 for own in places.values())
    used = sum(int(length) for own in places.values() for _, length in own)
    assert used <= (bundle / "weights.bin").stat().st_size <= used + 64 * len(places)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "--target tpu is not known; choose one of ort, plain, cuda, android-cpu, xnnpack"),
        ({"target": "nnapi", "precision": "int4"}, "--target nnapi stores numbers, no integers"),
        ({"target": "nnapi", "draft_head": "auto"}, "--target nnapi has no draft head"),
        ({"target": "nnapi", "prefill": "int8"}, "--prefill int8"),
        ({"target": "ort", "buckets": "1x16"}, "--target ort takes any shape"),
        ({"target": "nnapi", "buckets": "4,1x16"}, "--buckets takes rows and contexts that rise"),
        ({"target": "nnapi", "buckets": "4"}, "--buckets takes rows and contexts that rise"),
    ],
)
def test_what_a_target_cannot_be_asked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportOptions.of(**options)


def test_a_cache_longer_than_the_model_sees_is_refused(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    with pytest.raises(ConfigError, match="a cache of 100000 tokens, but the model sees 256"):
        make_bundle(make_checkpoint(), target="nnapi", precision=None, buckets="1x16,100000")


def test_the_longest_default_bucket_is_what_the_model_sees_or_2048(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    buckets = Bundle.open(make_bundle(make_checkpoint(), target="nnapi", precision=None)).manifest.buckets
    assert buckets is not None
    assert (buckets.rows, buckets.contexts) == ((1, 4, 16), (256,))

"""Bundles for CUDA: all numbers are float16, operators and integers are those that its provider takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.devices import Capability, CpuDevice
from skipstone.errors import CheckpointError, ConfigError, DeviceError
from skipstone.exporters.graph import WeightFile
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

TEXT = [7, 3, 250, 11, 42, 42, 5, 160, 31, 8, 90, 17]
FAMILIES = ["llama, tied", "gpt2", "mixtral", "gemma2", "qwen3", "llama, all biases", "gemma3n_text", "llama, yarn"]
FLOAT16 = onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def bundles(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Any:
    """Return the bundles of a family for two targets."""

    def make(family: str, first: str = "plain", **options: Any) -> list[Path]:
        case = CASES[family]
        checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
        return [make_bundle(checkpoint, target=target, **options) for target in (first, "cuda")]

    return make


class Float16OnProcessor(CpuDevice):
    """The processor, which takes no bundles for CUDA: where it computes right, it checks them all the same."""

    capabilities = CpuDevice.capabilities | {Capability.FP16}


def opened(path: Path) -> Model:
    return Model(Bundle.open(path), Float16OnProcessor(threads=1))


def logits_of(model: Model) -> list[NDArray[np.float32]]:
    """Return the logits after a prompt, and of a tree where layers see all, after one token more and a rollback."""
    sequence = model.new_sequence(context_length=64)
    sequence.append(TEXT)
    logits = [sequence.extend(Draft.empty()).copy()]
    sequence.commit([5])
    draft = (
        Draft(token_ids=(7, 11, 13), parents=(0, 0, 1), source="")
        if sequence.takes_trees
        else Draft.chain([7, 11], source="")
    )
    logits.append(sequence.extend(draft).copy())
    sequence.rollback(len(TEXT) - 2)
    logits.append(sequence.extend(Draft.empty()).copy())
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_float32_but_for_rounding(bundles: Any, family: str) -> None:
    """The CPU provider runs float16 by way of float32."""
    plain, cuda = (logits_of(opened(path)) for path in bundles(family, exits=CASES[family].exits[-1]))
    for wanted, found in zip(plain, cuda, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama, tied", "gpt2", "qwen3"])
def test_integers_mean_what_they_mean_in_float32(bundles: Any, family: str, precision: str) -> None:
    wanted, found = (prompt_logits(path) for path in bundles(family, first="ort", precision=precision))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.06 * np.abs(wanted).max())


def prompt_logits(bundle: Path) -> NDArray[np.float32]:
    """Return the logits after a prompt. All products are outputs too.

    Without that the CPU provider turns products between nodes that it has in float32 only into ones of float32, with
    scales that it computes anew in each run, and multiplies wrongly (seen in onnxruntime 1.32).
    """
    model = onnx.load(bundle / "stage-00.onnx", load_external_data=False)
    shown = [node.output[0] for node in model.graph.node if node.op_type == "MatMulNBits"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
    (bundle / "shown.onnx").write_bytes(model.SerializeToString())
    session = ort.InferenceSession(bundle / "shown.onnx", providers=["CPUExecutionProvider"])
    (bundle / "shown.onnx").unlink()
    logits: NDArray[np.float32] = session.run(["logits"], {one.name: _feed(one) for one in session.get_inputs()})[0]
    return logits


def _feed(argument: Any) -> NDArray[Any]:
    """Return what an input is for a prompt on an empty cache."""
    count, dtype = len(TEXT), np.float16 if "float16" in argument.type else np.float32
    if argument.name.startswith("past_"):
        _, heads, _, size = argument.shape
        return np.zeros((1, heads, 64, size), dtype)
    if argument.name.startswith(("cosines_", "sines_")):
        angles = np.outer(np.arange(64), 0.5 ** np.arange(argument.shape[1]))
        return (np.cos if argument.name.startswith("c") else np.sin)(angles).astype(dtype)
    known: dict[str, NDArray[Any]] = {
        "token_ids": np.array(TEXT)[None, :, None],
        "token_weights": np.ones((1, count, 1), dtype),
        "position_ids": np.arange(count)[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "attention_rows": np.arange(count),
        "token_rows": np.arange(count),
        "attention_bias": np.zeros((1, 1, count, count), dtype),
        "rows": np.array([count - 1]),
    }
    return known[argument.name]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_all_numbers_are_float16_but_the_logits(bundles: Any, precision: str) -> None:
    for family in ("llama, tied", "mixtral", "gemma3n_text"):
        _, bundle = bundles(family, precision=precision)
        for file in bundle.glob("*.onnx"):
            graph = onnx.load(file, load_external_data=False).graph
            types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
            assert types.pop("logits") == onnx.TensorProto.FLOAT
            assert onnx.TensorProto.FLOAT not in {*types.values(), *(tensor.data_type for tensor in graph.initializer)}
            assert {types[name] for name in types if name.startswith(("past_", "present_"))} == {FLOAT16}
            products = [node for node in graph.node if node.op_type == "MatMulNBits"]
            assert bool(products) == (precision != "fp32")
            assert all(len([*filter(None, node.input)]) <= 4 for node in products), "the provider takes no bias"
            assert not {"MoE", "QMoE"} & {node.op_type for node in graph.node}


def test_the_manifest_tells_target_and_cache(bundles: Any) -> None:
    plain, cuda = (opened(path) for path in bundles("llama, tied"))
    assert (plain.manifest.target, cuda.manifest.target) == ("plain", "cuda")
    assert cuda.manifest.cache_types == ("float16",)
    assert cuda.manifest.cache_bytes(1000) * 2 == plain.manifest.cache_bytes(1000)
    with pytest.raises(ConfigError, match="has graphs for a cache of fp16, not of int8"):
        Model(cuda.bundle, cuda.device, cache_type="int8")
    with pytest.raises(DeviceError, match=r"computes in float16, and device cpu has no fp16; .*--target ort"):
        Model.open(cuda.bundle.path)


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "weights.bin", numbers="float16") as file, pytest.raises(CheckpointError, match="gain"):
        file.add("gain", lambda: np.array([1e6], np.float32))


def test_the_graphs_for_android_are_those_of_the_usual_target(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    ort_bundle, android = (
        make_bundle(make_checkpoint(), target=target, precision="int8") for target in ("ort", "android-cpu")
    )
    assert all((android / file.name).read_bytes() == file.read_bytes() for file in ort_bundle.glob("*.onnx"))
    assert Model.open(android).manifest.target == "android-cpu"

"""Operators that ONNX does not define stand in one file; without them, the same runtime gives the same logits."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

import skipstone.exporters
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters.graph import FLOAT, TARGETS, GraphPen, WeightFile
from skipstone.exporters.graph.linear import Linear
from skipstone.language_model import LanguageModel
from skipstone.quant import Recipe, as_columns, quantize, refine
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, rotary_rows
from skipstone.runtime.generation import Generation, GenerationOptions, stream_batch
from tests.runtime.engine.test_sequence import Machine

STANDARD = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
FUSED = {schema.name for schema in get_all_operator_schema()} - STANDARD
TEXT = np.random.default_rng(0).integers(3, 300, size=21).tolist()
CHAIN = Draft.chain([7, 8, 9], source="test")
TREE = Draft((7, 9, 8, 10, 12), "test", (0, 0, 1, 1, 3))
# Rotary of some channels and none, windows, a softcap, learned positions, biases, norms of heads, experts, several
# streams that share caches, positions that change with the length.
FAMILIES = (
    "llama, tied",
    "llama, heads of 20",
    "gemma2",
    "gemma3n_text",
    "gpt2, quick gelu",
    "gpt_neox",
    "stablelm, norms of heads",
    "smollm3, windows",
    "olmoe, clipped, three heads, tied",
    "phi3, longrope of 18 channels of 24",
)


def test_an_operator_that_onnx_does_not_define_is_named_in_the_kernels_only() -> None:
    folder = Path(skipstone.exporters.__file__).parent
    named = {
        path.relative_to(folder).as_posix(): names
        for path in folder.rglob("*.py")
        if (names := strings(path) & (FUSED | {"com.microsoft"}))
    }
    assert named.keys() == {"graph/kernels.py", "graph/prefill_kernels.py"}
    assert {"com.microsoft", "GroupQueryAttention", "MatMulNBits", "QMoE"} <= named["graph/kernels.py"]


def strings(path: Path) -> set[str]:
    """Return the strings in a file that writes nodes."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text if "onnx" in text else "")
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.fixture(scope="module")
def both(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Any:
    """Return the models of both targets, made of one checkpoint."""

    def make(family: str, **options: Any) -> list[Model]:
        case = CASES[family]
        checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
        return [Model.open(make_bundle(checkpoint, target=target, **options)) for target in ("ort", "plain")]

    return make


def logits_of(model: Model) -> list[NDArray[np.float32]]:
    """Return the logits after a prompt, of a chain, of a tree, where layers see all, and of what is kept of them."""
    sequence = model.new_sequence(context_length=64)
    sequence.append(TEXT)
    logits = [sequence.extend(Draft.empty()).copy()]
    for draft, kept in ((CHAIN, [7, 11]), (TREE, [7, 10])):
        if draft is CHAIN or not any(layer.window for layer in model.manifest.cache):
            sequence.commit([5])
            logits.append(sequence.extend(draft).copy())
            sequence.commit(kept)
            logits.append(sequence.extend(Draft.empty()).copy())
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_operators_give_the_same_logits(both: Any, family: str) -> None:
    exits = CASES[family].exits[-1]
    ort, plain = (logits_of(model) for model in both(family, exits=exits))
    for wanted, found in zip(ort, plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama, tied", "smollm3, windows"])
def test_texts_of_a_batch_get_the_same_logits(both: Any, family: str) -> None:
    options = GenerationOptions(max_new_tokens=6, logprobs=3)
    prompts = [TEXT, TEXT[:5], TEXT[3:15]]
    ort, plain = (written(model, prompts, options) for model in both(family))
    for wanted, found in zip(ort, plain, strict=True):
        assert found.token_ids == wanted.token_ids
        for one, other in zip(found.logprobs, wanted.logprobs, strict=True):
            np.testing.assert_allclose([p for _, p in one.top], [p for _, p in other.top], rtol=0, atol=1e-4)


def written(model: Model, prompts: Sequence[list[int]], options: GenerationOptions) -> list[Generation]:
    pieces: list[list[Any]] = [[] for _ in prompts]
    for index, piece in stream_batch(model, prompts, options):
        pieces[index].append(piece)
    return [Generation.join(of_prompt) for of_prompt in pieces]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_plain_bundle_has_standard_operators_only(both: Any, precision: str) -> None:
    for family in ("llama, tied", "mixtral", "gemma3n_text"):
        _, plain = both(family, precision=precision)
        for file in plain.bundle.path.glob("*.onnx"):
            onnx.checker.check_model(file)
            graph = onnx.load(file, load_external_data=False)
            assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 23)]
            assert {node.op_type for node in graph.graph.node} <= STANDARD


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_give_nearly_the_same_logits(both: Any, precision: str) -> None:
    """The fused operators round what they multiply to 8 bits, the plain ones do not."""
    ort, plain = (logits_of(model) for model in both("llama, tied", precision=precision, exits="auto"))
    for wanted, found in zip(ort, plain, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.15 * np.abs(wanted).max())


@pytest.mark.parametrize("target", ["ort", "plain"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_mean_the_same_numbers_wherever_they_are_read(
    tmp_path: Path, target: str, bits: int, symmetric: bool
) -> None:
    random = np.random.default_rng(0)
    rows, columns = 37, 70  # three blocks, the last one not full
    weight, x = random.normal(size=(rows, columns)).astype(np.float32), random.normal(size=(3, columns))
    order = random.permutation(columns)
    matrix = quantize(weight, bits=bits, block_size=32, symmetric=symmetric)
    turned = replace(matrix, order=order)
    offsets = (random.uniform(-0.5, 0.5, matrix.scales.shape) * matrix.scales).astype(np.float32)
    shifted = replace(matrix, offsets=offsets)
    ids = np.array([36, 2, 2])
    with WeightFile(tmp_path / "weights.bin", least_bits=TARGETS[target].least_bits) as file:
        pen = GraphPen("test", file)
        kernels = TARGETS[target](pen)
        linear, inputs = Linear(kernels, Recipe.named("fp32")), pen.input("x", FLOAT, ("R", columns))
        row_ids = pen.input("ids", ir.DataType.INT64, ("P",))
        found = {
            "product": linear(inputs, "one", lambda: [matrix], rank=2),
            "ordered": linear(inputs, "turned", lambda: [turned], rank=2),
            "both": linear(inputs, "two", lambda: [matrix], shared=True, rank=2),
            "rows": linear.rows("two", row_ids, lambda: matrix),
            "shifted": linear(inputs, "three", lambda: [shifted], rank=2),
            "shifted, both": linear(inputs, "four", lambda: [shifted], shared=True, rank=2),
            "shifted, rows": linear.rows("four", row_ids, lambda: shifted),
            "shifted, first": linear.some_rows(inputs, "four", lambda: shifted, 11, row_ids)[0],
            "first": linear.some_rows(inputs, "two", lambda: matrix, 11, row_ids)[0],
        }
        for name, value in found.items():
            pen.output(value, name, FLOAT, (name, "N"))
        ir.save(kernels.model(), tmp_path / "test.onnx")
    session = open_device("cpu").open_session(tmp_path / "test.onnx")
    results = dict(zip(found, session.run(list(found), {"x": x.astype(np.float32), "ids": ids}), strict=True))
    numbers = matrix.dequantize()
    wanted = {"product": x @ numbers.T, "ordered": x @ turned.dequantize().T, "both": x @ numbers.T}
    wanted |= {"rows": numbers[ids], "first": x @ numbers[:11].T}
    stored = refine(shifted, bits=max(bits, TARGETS[target].least_bits), block_size=32)
    moved = numbers + (as_columns(stored).dequantize()[:, 96:]).repeat(32, axis=1)[:, :columns]
    wanted |= {"shifted": x @ moved.T, "shifted, both": x @ moved.T}
    wanted |= {"shifted, rows": moved[ids], "shifted, first": x @ moved[:11].T}
    for name, array in wanted.items():
        np.testing.assert_allclose(results[name], array, rtol=0, atol=2e-4)


def fed(
    session: onnxruntime.InferenceSession, ids: Any, lengths: Any, caches: list[Any], tables: dict[str, Any]
) -> list[Any]:
    """Feed `ids` [B, T] after texts of these lengths [B], with other buffers for what comes out: logits and caches."""
    ids, lengths = np.array(ids), np.array(lengths)
    (batch, size), total = ids.shape, int(lengths.max()) + ids.shape[1]
    feeds = {
        "token_ids": ids[:, :, None],
        "token_weights": np.ones((batch, size, 1), np.float32),
        "position_ids": lengths[:, None] + np.arange(size),
        "seqlens_k": (lengths + size - 1).astype(np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "attention_bias": np.zeros((1, 1, size, total), np.float32),
        "rows": np.arange(size - 1, batch * size, size),
    }
    names = [argument.name for argument in session.get_inputs() if argument.name.startswith("past_")]
    outputs = ["logits", *(name.replace("past", "present") for name in names)]
    results: list[Any] = session.run(outputs, feeds | tables | dict(zip(names, caches, strict=True)))
    return results


def test_caches_may_be_copied_and_what_lies_behind_a_text_does_not_count(both: Any) -> None:
    _, model = both("llama, heads of 20")
    session = open_device("cpu").open_session(model.bundle.path / model.manifest.stages[0].file)
    layer = model.manifest.cache[0]
    empty = np.full((1, layer.num_heads, 64, layer.head_size), np.nan, np.float32)
    caches = [[empty] * (2 * len(model.manifest.cache))] * 2
    tables = dict(
        zip(("cosines_0", "sines_0"), rotary_rows(model.manifest.rotaries[0], range(64), width=16), strict=True)
    )
    wanted = []
    for text, length in enumerate((9, 20)):
        sequence = model.new_sequence(context_length=64)
        sequence.append(TEXT[: length + 1])
        wanted.append(sequence.extend(Draft.empty())[0].copy())
        for start, end in ((0, 5), (5, length)):
            _, *caches[text] = fed(session, [TEXT[start:end]], [start], caches[text], tables)
    assert np.isnan(empty).all(), "what is given stays as it is"
    together = [np.concatenate(pair) for pair in zip(*caches, strict=True)]
    logits, *_ = fed(session, [[TEXT[9]], [TEXT[20]]], [9, 20], together, tables)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


def test_any_order_of_operations_keeps_the_logits_of_the_text(both: Any) -> None:
    _, model = both("llama, tied", exits="auto")
    run_state_machine_as_test(lambda: Machine(model, exact=False), settings=settings(max_examples=5, deadline=None))


def test_what_the_plain_target_cannot_do_is_refused(both: Any) -> None:
    ort, plain = both("llama, tied")
    assert (ort.manifest.exact, plain.manifest.exact) == (True, False)
    with pytest.raises(ConfigError, match="cannot be exact"):
        plain.new_sequence(exact=True)


def test_drafts_of_its_own_layers_write_the_plain_text(both: Any) -> None:
    for family in ("llama, tied", "gemma2"):
        texts = {
            (target, method): LanguageModel(model).generate("def add(", max_new_tokens=12, decode=method).token_ids
            for target, model in zip(("ort", "plain"), both(family, exits="auto", draft_head=64), strict=True)
            for method in ("plain", "self", "suffix")
        }
        assert len(set(map(tuple, texts.values()))) == 1, texts


def test_the_manifest_names_the_target(both: Any) -> None:
    manifests = [Bundle.open(model.bundle.path).manifest for model in both("llama, tied")]
    assert [manifest.target for manifest in manifests] == ["ort", "plain"]
    assert [manifest.recipe.get("target") for manifest in manifests] == [None, "plain"]

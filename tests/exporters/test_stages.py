"""Where a model is cut, what each graph takes and gives, and that no weight is stored twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.exporters.stages import parse_cuts, parse_exits, plan_stages
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model


@dataclass(frozen=True)
class Stored:
    """Where a tensor of a graph lies in the weight file."""

    name: str
    offset: int
    length: int


def stored_tensors(folder: Path, file: str) -> list[Stored]:
    found = []
    for tensor in onnx.load(folder / file, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == "weights.bin"
            found.append(Stored(tensor.name, int(where["offset"]), int(where["length"])))
    return found


def graph_files(folder: Path) -> list[str]:
    manifest = Bundle.open(folder).manifest
    return [stage.file for stage in manifest.stages] + ([manifest.head] if manifest.head else [])


def shapes(values: object) -> dict[str, list[int | str]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in values  # type: ignore[attr-defined]
    }


# Exits


@pytest.mark.parametrize(
    ("text", "num_layers", "wanted"),
    [
        ("none", 4, ()),
        ("auto", 4, (1, 2, 3)),
        ("auto", 24, (6, 12, 18)),
        ("auto", 7, (1, 3, 5)),
        ("auto", 2, (1,)),
        ("auto", 1, ()),
        ("3", 4, (3,)),
        ("3,1", 4, (1, 3)),
        ("1, 2,2", 4, (1, 2)),
    ],
)
def test_exits_are_given_by_a_word_or_by_layer_numbers(text: str, num_layers: int, wanted: tuple[int, ...]) -> None:
    assert parse_exits(text, num_layers) == wanted


@pytest.mark.parametrize("text", ["0", "4", "1,4", "-1", "99"])
def test_an_exit_outside_the_model_is_refused_with_the_range(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--exits {text}: .*between layer 1 and 3"):
        parse_exits(text, 4)


@pytest.mark.parametrize("text", ["", "some", "1,", "1.5", "1;2"])
def test_exits_that_are_no_numbers_are_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(ConfigError, match=f"takes none, auto or layer numbers like 4,8, not '{text}'"):
        parse_exits(text, 4)


def test_a_model_of_one_layer_has_no_place_for_an_exit() -> None:
    with pytest.raises(ConfigError, match="has one layer"):
        parse_exits("1", 1)


@pytest.mark.parametrize(("text", "wanted"), [("none", ()), ("each", (1, 2, 3)), ("3,1", (1, 3)), ("2", (2,))])
def test_cuts_are_given_by_a_word_or_by_layer_numbers(text: str, wanted: tuple[int, ...]) -> None:
    assert parse_cuts(text, 4) == wanted
    assert parse_cuts("each", 1) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auto", "--cuts takes none, each or layer numbers like 4,8, not 'auto'"),
        ("4", "--cuts 4: a cut lies between layer 1 and 3 of this model"),
        ("0,2", "--cuts 0,2: a cut lies between layer 1 and 3"),
    ],
)
def test_cuts_that_cannot_be_are_refused_with_what_would_do(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_cuts(text, 4)


@given(st.sets(st.integers(1, 11)), st.sets(st.integers(1, 11)))
def test_stages_end_at_every_exit_and_every_cut_once(exits: set[int], cuts: set[int]) -> None:
    stages = plan_stages(12, sorted(exits), sorted(cuts))
    assert [stage.end_layer for stage in stages] == [*sorted(exits | cuts), 12]
    assert {stage.ends_in_logits for stage in stages} == {not exits | cuts}


@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1)))))
def test_stages_cover_every_layer_once_and_end_at_every_exit(plan: tuple[int, set[int]]) -> None:
    num_layers, exits = plan
    stages = plan_stages(num_layers, sorted(exits))
    covered = [layer for stage in stages for layer in range(stage.first_layer, stage.end_layer)]
    assert covered == list(range(num_layers))
    assert {stage.end_layer for stage in stages} == exits | {num_layers}
    assert [stage.embeds for stage in stages] == [True] + [False] * len(exits)
    assert all(stage.ends_in_logits == (not exits) for stage in stages)
    assert len({stage.file for stage in stages}) == len(stages)


# Graphs


def test_a_model_without_exits_is_one_graph_from_tokens_to_logits(
    tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    folder = make_bundle(tiny_checkpoint)
    assert graph_files(folder) == ["stage-00.onnx"]
    graph = onnx.load(folder / "stage-00.onnx", load_external_data=False).graph
    inputs, outputs = shapes(graph.input), shapes(graph.output)
    assert {name: inputs[name] for name in inputs if not name.startswith("past_")} == {
        "token_ids": ["B", "T", "W"],
        "token_weights": ["B", "T", "W"],
        "position_ids": ["B", "A"],
        "seqlens_k": ["B"],
        "total_sequence_length": [],
        "attention_bias": [1, 1, "A", "S"],
        "attention_rows": ["A"],
        "token_rows": ["T"],
        "cosines_0": ["P", 8],
        "sines_0": ["P", 8],
        "rows": ["R"],
    }
    kinds = [f"{kind}_{layer}" for layer in range(4) for kind in ("key", "value")]
    assert {name for name in inputs if name.startswith("past_")} == {f"past_{kind}" for kind in kinds}
    assert set(outputs) == {"logits", *(f"present_{kind}" for kind in kinds)}
    assert outputs["logits"] == ["R", 307]


def test_stages_hand_hidden_states_on_and_the_head_makes_logits_of_them(
    tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    folder = make_bundle(tiny_checkpoint, exits="auto")
    *stages, head = (onnx.load(folder / file, load_external_data=False).graph for file in graph_files(folder))
    assert len(stages) == 4
    for layer, graph in enumerate(stages):
        inputs, outputs = shapes(graph.input), shapes(graph.output)
        assert ("token_ids" in inputs, "hidden" in inputs) == (layer == 0, layer > 0)
        assert "rows" not in inputs
        assert set(outputs) == {"hidden_out", f"present_key_{layer}", f"present_value_{layer}"}
        assert outputs["hidden_out"] == ["B", "T", 52]
    assert shapes(head.input) == {"hidden": ["B", "T", 52], "rows": ["R"]}
    assert shapes(head.output) == {"logits": ["R", 307]}


def test_a_cut_is_no_exit_and_changes_no_weight_and_no_token(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    whole, cut = (Model.open(make_bundle(tiny_checkpoint, **options)) for options in ({}, {"cuts": "1,3"}))
    both = Model.open(make_bundle(tiny_checkpoint, exits="2", cuts="each"))
    assert [(len(one.manifest.stages), one.manifest.exits) for one in (whole, cut, both)] == [
        (1, ()),
        (3, ()),
        (4, (2,)),
    ]
    assert len({one.manifest.files["weights.bin"].sha256 for one in (whole, cut, both)}) == 1
    assert graph_files(cut.bundle.path)[-1] == "head.onnx"
    logits = []
    for model in (whole, cut, both):
        sequence = model.new_sequence()
        sequence.append([1, 50, 60, 70])
        logits.append(sequence.extend(Draft.empty())[0].copy())
    for found in logits[1:]:
        np.testing.assert_allclose(found, logits[0], atol=1e-4)


# Weights


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("exits", ["none", "auto"])
def test_every_byte_of_the_weight_file_belongs_to_one_tensor_of_one_stage(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, precision: str, tied: bool, exits: str
) -> None:
    folder = make_bundle(make_checkpoint(tie_word_embeddings=tied), precision=precision, exits=exits)
    users: dict[Stored, set[str]] = defaultdict(set)
    for file in graph_files(folder):
        for tensor in stored_tensors(folder, file):
            users[Stored("", tensor.offset, tensor.length)].add(file)
            may_be_shared = tied and tensor.name.startswith("head")
            assert may_be_shared or len(users[Stored("", tensor.offset, tensor.length)]) == 1, tensor
    end = 0
    for tensor in sorted(users, key=lambda tensor: tensor.offset):
        assert tensor.offset % 64 == 0 and 0 <= tensor.offset - end < 64
        end = tensor.offset + tensor.length
    assert end == (folder / "weights.bin").stat().st_size


@pytest.mark.parametrize(("precision", "bytes_per_weight"), [("fp32", 4), ("int8", 64 / 52)])
def test_a_tied_head_takes_no_bytes_of_its_own(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, precision: str, bytes_per_weight: float
) -> None:
    sizes = [
        (make_bundle(make_checkpoint(tie_word_embeddings=tied), precision=precision) / "weights.bin").stat().st_size
        for tied in (False, True)
    ]
    assert sizes[0] - sizes[1] >= 307 * 52 * bytes_per_weight

"""Export: what cannot work is refused before a weight is read, what is written is whole and close to the original."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skipstone.api import export, plan
from skipstone.errors import CheckpointError, ConfigError, OutputError, UnsupportedModel
from skipstone.exporters import ExportOptions, plan_export
from skipstone.quant import Recipe, TensorRecipe
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
Reference = Callable[[Path, tuple[int, ...]], Logits]
TOKEN_IDS = tuple(np.random.default_rng(1).integers(3, 300, size=60).tolist())


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def change_json(file: Path, **changes: object) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def logits_of(bundle: Path) -> Logits:
    """Return logits [T, V] after each of TOKEN_IDS."""
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test")).copy()


def kl(wanted: Logits, found: Logits) -> float:
    """Return the mean over rows of KL(wanted || found), in nats."""

    def log_softmax(logits: Logits) -> NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    p, q = log_softmax(wanted), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


# Refusals


@pytest.mark.usefixtures("unreadable")
def test_an_export_without_fault_does_read_weights(checkpoint: Path, tmp_path: Path) -> None:
    plan(checkpoint, precision="fp32")
    with pytest.raises(AssertionError, match=r"model\..* was read"):
        export(checkpoint, tmp_path / "out", precision="fp32")


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "opt"}, UnsupportedModel, "'opt' is not known; known are falcon, gemma2, "),
        ({"hidden_act": "relu2"}, UnsupportedModel, "llama: activation 'relu2' is not supported, only silu, "),
        ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quantization_config"),
        ({"rope_parameters": {"rope_type": "mrope"}}, UnsupportedModel, "rope type 'mrope'"),
        ({"rope_parameters": {"rope_type": "linear"}}, CheckpointError, "'linear' needs factor"),
        ({"vocab_size": None}, CheckpointError, "vocab_size must be a positive whole number"),
        ({"intermediate_size": 77}, CheckpointError, r"gate_proj.weight has shape \(76, 52\).*asks for \(77, 52\)"),
        ({"num_hidden_layers": 5}, CheckpointError, "lacks the tensor model.layers.4.*nearest is model.layers"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_a_weight_is_read(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], error: type[CheckpointError], message: str
) -> None:
    change_json(checkpoint / "config.json", **changes)
    with pytest.raises(error, match=message):
        export(checkpoint, tmp_path / "out", precision="fp32")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bos_token_id": 307}, "bos_token_id 307 is not a token of the model, whose vocabulary is 307"),
        ({"bos_token_id": "<s>"}, "bos_token_id '<s>' "),
    ],
)
def test_a_first_token_outside_the_vocabulary_is_refused_before_a_weight_is_read(
    checkpoint: Path, tmp_path: Path, file: str, changes: dict[str, object], message: str
) -> None:
    if file == "config.json":
        (checkpoint / "generation_config.json").unlink()
    change_json(checkpoint / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "out", precision="fp32")


@pytest.mark.usefixtures("unreadable")
def test_a_missing_tensor_is_refused_by_name_with_the_nearest(checkpoint: Path) -> None:
    change_tensors(checkpoint, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.layers\.2\.mlp\.up_proj\.weight; the nearest"):
        plan(checkpoint, precision="fp32")


@pytest.mark.usefixtures("unreadable")
def test_a_misshapen_tensor_is_refused_with_both_shapes(checkpoint: Path) -> None:
    change_tensors(checkpoint, lambda tensors: tensors.update({"model.norm.weight": np.ones(51, np.float32)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(51,\).*asks for \(52,\)"):
        plan(checkpoint, precision="fp32")


@pytest.mark.usefixtures("unreadable")
def test_a_vocabulary_of_a_third_of_the_tokenizer_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer.json has 300 tokens, but the model's vocabulary is 100"):
        plan(make_checkpoint(vocab_size=100), precision="fp32")


@pytest.mark.usefixtures("unreadable")
def test_a_checkpoint_without_a_whole_tokenizer_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        plan(checkpoint, precision="fp32")
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        plan(checkpoint, precision="fp32")


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("options", [{"exits": "4"}, {"exits": "x"}, {"precision": "int3"}, {"group_size": 48}])
def test_an_option_that_cannot_work_is_refused_before_a_weight_is_read(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        export(checkpoint, tmp_path / "out", **options)


@pytest.mark.usefixtures("unreadable")
def test_a_place_that_is_taken_is_refused_before_a_weight_is_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError):
        export(checkpoint, tmp_path / "out", precision="fp32")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_weight_that_is_not_a_number_ends_the_export_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    change_tensors(checkpoint, lambda tensors: tensors["model.norm.weight"].fill(np.nan))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*NaN"):
        export(checkpoint, tmp_path / "new" / "out", precision="fp32")
    assert list((tmp_path / "new").iterdir()) == []


# What a bundle holds


def test_the_manifest_says_what_the_runtime_needs(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint("mistral", sliding_window=5, head_dim=20)
    manifest = Bundle.open(make_bundle(checkpoint, precision="int4", exits="2", group_size=64)).manifest
    d = manifest.dimensions
    assert (manifest.family, d.vocab_size, d.hidden_size, d.num_layers, d.head_size) == ("mistral", 307, 52, 4, 20)
    assert manifest.context_length == 256
    assert (manifest.exits, manifest.head) == ((2,), "head.onnx")
    assert [(layer.num_heads, layer.head_size, layer.window) for layer in manifest.cache] == [(2, 32, 5)] * 4
    assert (manifest.bos_id, manifest.stop_ids, manifest.special_ids) == (1, (2,), (1, 2))
    assert manifest.provenance.source == str(checkpoint)
    named = Recipe.named("int4", group_size=64)
    assert manifest.recipe == named.for_matrices(["head", "embedding", "layers.0.qkv", "layers.0.o"]).to_json()
    assert set(manifest.files) == {
        *("stage-00.onnx", "stage-01.onnx", "head.onnx", "weights.bin"),
        *("tokenizer.json", "generation_config.json"),
    }


def test_a_bundle_verifies(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    Bundle.open(make_bundle(tiny_checkpoint)).verify()


def test_the_generation_config_goes_before_the_config(checkpoint: Path, tmp_path: Path) -> None:
    change_json(checkpoint / "generation_config.json", eos_token_id=[7, 9], pad_token_id=0)
    manifest = Bundle.open(export(checkpoint, tmp_path / "out", precision="fp32")).manifest
    assert (manifest.stop_ids, manifest.special_ids) == ((7, 9, 2), (0, 1, 2, 7, 9))
    places = "config.json, name"
    assert manifest.stop_sources == {7: "generation_config.json", 9: "generation_config.json", 2: places}


def test_a_padding_token_outside_the_vocabulary_does_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    change_json(checkpoint / "generation_config.json", pad_token_id=-1)
    assert Bundle.open(export(checkpoint, tmp_path / "out", precision="fp32")).manifest.special_ids == (1, 2)


def test_text_files_of_the_checkpoint_are_taken_over_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    texts = {
        "chat_template.jinja": "{{ messages }}\n",
        "tokenizer_config.json": '{"bos_token": "<s>"}',
        "special_tokens_map.json": "{}",
    }
    for name, text in texts.items():
        (checkpoint / name).write_text(text)
    (checkpoint / "README.md").write_text("not ours")
    export(checkpoint, tmp_path / "out", precision="fp32")
    assert {name: (tmp_path / "out" / name).read_text() for name in texts} == texts
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert not (tmp_path / "out" / "README.md").exists()


def test_shards_give_the_bundle_of_one_file(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    one, many = make_checkpoint(), make_checkpoint(max_shard_size="40KB")
    assert len(list(many.glob("*.safetensors"))) > 5
    weights = [(make_bundle(folder, precision="int4") / "weights.bin").read_bytes() for folder in (one, many)]
    assert weights[0] == weights[1]


def test_two_exports_are_the_same_to_the_byte(checkpoint: Path, tmp_path: Path) -> None:
    bundles = [Bundle.open(export(checkpoint, tmp_path / name, exits="auto")) for name in ("first", "second")]
    assert bundles[0].manifest == bundles[1].manifest


def test_the_parts_of_a_pair_are_what_each_is_when_exported_alone(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    target, small = make_checkpoint(), make_checkpoint(num_hidden_layers=1)
    pair = make_bundle(target, precision="int4", exits="2", drafter=small, drafter_precision="int8")
    alone, drafter = make_bundle(target, precision="int4", exits="2"), make_bundle(small, precision="int8")
    own = {name: entry for name, entry in Bundle.open(pair).manifest.files.items() if not name.startswith("drafter/")}
    assert Bundle.open(pair).manifest.draft_model == "drafter"
    assert own == Bundle.open(alone).manifest.files
    assert Bundle.open(pair / "drafter").manifest == Bundle.open(drafter).manifest
    Bundle.open(pair).verify()
    on_disk = {file.relative_to(pair).as_posix() for file in pair.rglob("*") if file.is_file()}
    assert on_disk == {"skipstone.json", *Bundle.open(pair).manifest.files}


def test_a_taken_place_is_replaced_by_force(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "out", precision="fp32", exits="auto")
    with pytest.raises(OutputError):
        export(checkpoint, tmp_path / "out", precision="fp32")
    export(checkpoint, tmp_path / "out", precision="fp32", force=True)
    assert Bundle.open(tmp_path / "out").manifest.exits == ()
    assert not (tmp_path / "out" / "head.onnx").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("exits", ["none", "auto"])
def test_progress_counts_every_parameter_once(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, precision: str, tied: bool, exits: str
) -> None:
    options = ExportOptions(recipe=Recipe.named(precision), exits=exits)
    chosen = plan_export(make_checkpoint(tie_word_embeddings=tied), options)
    counts: list[int] = []
    chosen.write(tmp_path / "out", on_progress=counts.append)
    assert sum(counts) == chosen.num_parameters
    assert len(counts) == len(chosen.architecture.tensor_shapes())


def test_progress_counts_the_parameters_of_the_drafter_too(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    chosen = plan(make_checkpoint(), drafter=make_checkpoint(num_hidden_layers=1))
    counts: list[int] = []
    chosen.write(tmp_path / "out", on_progress=counts.append)
    assert sum(counts) == sum(model.num_parameters for model in chosen.models) > chosen.num_parameters


def test_a_drafter_with_a_bad_weight_ends_the_export_and_leaves_nothing(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    small = Path(shutil.copytree(make_checkpoint(num_hidden_layers=1), tmp_path / "small"))
    change_tensors(small, lambda tensors: tensors["model.norm.weight"].fill(np.nan))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*NaN"):
        export(make_checkpoint(), tmp_path / "new" / "out", drafter=small)
    assert list((tmp_path / "new").iterdir()) == []


# Precision


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(("precision", "bound"), [("int8", 0.001), ("int4", 0.05), ("int4-fast", 0.05)])
def test_a_quantized_bundle_stays_close_to_the_checkpoint(
    make_checkpoint: MakeCheckpoint,
    reference_logits: Reference,
    tmp_path: Path,
    precision: str,
    bound: float,
    group_size: int,
    symmetric: bool,
    tied: bool,
) -> None:
    """Sizes 52 and 76 fill no block. `bound` is in nats per token; the logits of other positions are 0.15 off."""
    checkpoint = make_checkpoint(tie_word_embeddings=tied, initializer_range=0.1)
    recipe = Recipe.named(precision, group_size=group_size, symmetric=symmetric)
    plan_export(checkpoint, ExportOptions(recipe=recipe)).write(tmp_path / "out")
    found, wanted = logits_of(tmp_path / "out"), reference_logits(checkpoint, TOKEN_IDS)
    assert 0 < kl(wanted, found) < bound
    assert kl(wanted, found[::-1]) > 0.1


def test_a_recipe_may_give_every_tensor_its_own_bits(
    make_checkpoint: MakeCheckpoint, reference_logits: Reference, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(initializer_range=0.1)
    rules = (("*", TensorRecipe(bits=32)), ("layers.*.down", TensorRecipe(bits=8)), ("embedding", TensorRecipe(bits=4)))
    plan_export(checkpoint, ExportOptions(recipe=Recipe(name="mixed", rules=rules))).write(tmp_path / "out")
    found, wanted = logits_of(tmp_path / "out"), reference_logits(checkpoint, TOKEN_IDS)
    assert 0 < kl(wanted, found) < 0.02

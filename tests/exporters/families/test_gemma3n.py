"""Gemma 3n: each of its options shows, layers share caches, FFNs are nested; what cannot be is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from numpy.typing import NDArray

from skipstone.check import part_sizes
from skipstone.errors import CheckpointError, UnsupportedModel
from skipstone.exporters.families import read_architecture
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.generation import GenerationOptions, stream, stream_batch

Logits = NDArray[np.float32]
FULL, SLIDING = "full_attention", "sliding_attention"
# Five layers, of which the last three read the caches of the first two; no size divides another.
SETTINGS: dict[str, Any] = {
    "num_hidden_layers": 5,
    "intermediate_size": [76, 60, 44, 76, 60],
    "head_dim": 20,
    "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING],
    "sliding_window": 5,
    "num_kv_shared_layers": 3,
    "activation_sparsity_pattern": [0.9, 0.6, 0.0, 0.3, 0.0],
    "altup_num_inputs": 3,
    "laurel_rank": 6,
    "vocab_size_per_layer_input": 200,
    "hidden_size_per_layer_input": 12,
    "final_logit_softcapping": 6.0,
    "tie_word_embeddings": True,
}
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 307, size=20).tolist())
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("gemma3n_text", **SETTINGS)


@pytest.fixture(scope="session")
def model(checkpoint: Path, make_bundle: MakeBundle) -> Model:
    return Model.open(make_bundle(checkpoint))


def logits_of(model: Model, token_ids: tuple[int, ...] = TOKEN_IDS) -> Logits:
    """The logits after each token of a text that is fed in one call."""
    sequence = model.new_sequence()
    sequence.append(token_ids[:1])
    return sequence.extend(Draft.chain(token_ids[1:], source="test")).copy()


def assert_close(found: Logits, wanted: Logits) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


# Options


@pytest.mark.parametrize(
    "change",
    [
        {"activation_sparsity_pattern": [0.0] * 5},
        {"activation_sparsity_pattern": None},
        {"altup_active_idx": 2},
        {"altup_correct_scale": False},
        {"final_logit_softcapping": 3.0},
        {"hidden_activation": "silu"},
        {"rms_norm_eps": 0.1},
        {"sliding_window": 3},
        {"layer_types": [FULL, SLIDING, FULL, FULL, SLIDING]},
        {"rope_parameters": {FULL: {"rope_theta": 500.0, "rope_type": "default"}, SLIDING: {"rope_theta": 30.0}}},
    ],
    ids=lambda change: "-".join(change),
)
def test_an_option_in_config_json_shows_as_in_transformers(
    change: dict[str, Any],
    checkpoint: Path,
    make_bundle: MakeBundle,
    reference_logits: Callable[[Path, tuple[int, ...]], Logits],
    tmp_path: Path,
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    config = json.loads((changed / "config.json").read_text()) | change
    (changed / "config.json").write_text(json.dumps(config))
    wanted = reference_logits(changed, TOKEN_IDS)
    assert np.abs(wanted - reference_logits(checkpoint, TOKEN_IDS)).max() > 100 * TOLERANCE
    assert_close(logits_of(Model.open(make_bundle(changed))), wanted)


@pytest.mark.parametrize(
    "change", [{"attention_bias": True}, {"num_kv_shared_layers": 0}, {"altup_num_inputs": 2}, {"laurel_rank": 3}]
)
def test_an_option_with_other_tensors_gives_the_logits_of_transformers(
    change: dict[str, Any],
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_logits: Callable[[Path, tuple[int, ...]], Logits],
) -> None:
    changed = make_checkpoint("gemma3n_text", **SETTINGS | change)
    assert_close(logits_of(Model.open(make_bundle(changed))), reference_logits(changed, TOKEN_IDS))


def test_what_config_json_does_not_say_is_what_transformers_takes() -> None:
    import transformers

    theirs = transformers.Gemma3nTextConfig()
    found = read_architecture({"model_type": "gemma3n_text"})
    assert found.altup is not None
    d, owners = found.dimensions, found.altup.cache_owners
    assert [d.vocab_size, d.hidden_size, d.num_layers] == [
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.num_hidden_layers,
    ]
    assert [d.num_heads, d.num_kv_heads, d.head_size] == [
        theirs.num_attention_heads,
        theirs.num_key_value_heads,
        theirs.head_dim,
    ]
    assert found.ffn_widths == tuple(theirs.intermediate_size)
    assert found.windows == tuple(512 if kind == SLIDING else None for kind in theirs.layer_types)
    assert found.altup.sparsities == tuple(theirs.activation_sparsity_pattern)
    assert [owner != layer for layer, owner in enumerate(owners)] == [
        mode == "reuse" for mode in theirs.kv_sharing_modes
    ]
    assert [theirs.kv_sharing_modes[owner] for owner in set(owners[found.altup.num_caches :])] == ["store", "store"]
    assert found.tied_embedding
    assert found.logit_cap == theirs.final_logit_softcapping


def test_the_text_model_of_a_wrapper_goes_by_the_names_of_the_hub() -> None:
    text = {"model_type": "gemma3n_text", "num_hidden_layers": 30, "num_kv_shared_layers": 10}
    architecture = read_architecture({"model_type": "gemma3n", "text_config": text, "vision_config": {}})
    shapes = architecture.tensor_shapes()
    assert all(name.startswith("model.language_model.") for name in shapes)
    assert shapes["model.language_model.embed_tokens_per_layer.weight"] == (262144, 30 * 256)
    assert "model.language_model.layers.19.self_attn.k_proj.weight" in shapes
    assert not any(f"layers.20.self_attn.{name}" in other for name in ("k_", "v_") for other in shapes)


# Caches that layers share


def test_layers_that_share_a_cache_have_none_of_their_own(model: Model) -> None:
    assert [layer.window for layer in model.manifest.cache] == [5, None]
    graph = onnx.load(model.bundle.path / "stage-00.onnx", load_external_data=False).graph
    kinds = [f"{kind}_{layer}" for layer in range(2) for kind in ("key", "value")]
    assert {value.name for value in graph.input if value.name.startswith("past_")} == {f"past_{kind}" for kind in kinds}
    assert {value.name for value in graph.output} == {"logits", *(f"present_{kind}" for kind in kinds)}


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_rows_behind_a_shared_cache_are_those_of_a_fresh_prefill(model: Model, num_rows: int) -> None:
    wanted, sequence = logits_of(model), model.new_sequence()
    for start in range(0, len(TOKEN_IDS), num_rows):
        rows = TOKEN_IDS[start : start + num_rows]
        sequence.append(rows[:1])
        assert_close(sequence.extend(Draft.chain(rows[1:], source="test")), wanted[start : start + len(rows)])
        if len(rows) > 1:
            sequence.commit(rows[1:])


def test_a_rejected_draft_leaves_nothing_in_a_shared_cache(model: Model) -> None:
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:8])
    sequence.extend(Draft.chain((9, 9, 9), source="test"))
    sequence.commit(TOKEN_IDS[8:9])
    assert_close(sequence.fork().extend(Draft.empty()), logits_of(model)[8:9])


def test_a_tree_over_shared_caches_gives_each_path_its_logits(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    without_windows = make_checkpoint("gemma3n_text", **SETTINGS | {"layer_types": [FULL] * 5})
    model = Model.open(make_bundle(without_windows))
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:6])
    sequence.extend(Draft.empty())
    sequence.append(TOKEN_IDS[6:7])
    tree = Draft(token_ids=(11, 12, 13, 14), parents=(0, 0, 1, 2), source="test")
    found = sequence.extend(tree)
    assert_close(found[[0, 1, 3]], logits_of(model, (*TOKEN_IDS[:7], 11, 13))[6:])
    assert_close(found[[0, 2, 4]], logits_of(model, (*TOKEN_IDS[:7], 12, 14))[6:])


def test_texts_of_a_batch_are_those_that_each_gets_alone(model: Model) -> None:
    options, prompts = GenerationOptions(max_new_tokens=8), [TOKEN_IDS[:9], TOKEN_IDS[9:11], TOKEN_IDS[11:]]
    together: list[list[int]] = [[] for _ in prompts]
    for index, piece in stream_batch(model, prompts, options):
        together[index].extend(piece.token_ids)
    for prompt, found in zip(prompts, together, strict=True):
        sequence = model.new_sequence()
        sequence.append(prompt)
        assert found == [token_id for piece in stream(model, sequence, options) for token_id in piece.token_ids]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_in_an_exact_sequence_drafted_rows_are_the_same_bits(
    precision: str, checkpoint: Path, make_bundle: MakeBundle
) -> None:
    model = Model.open(make_bundle(checkpoint, precision=precision))
    plain, drafted = model.new_sequence(exact=True), model.new_sequence(exact=True)
    for sequence in (plain, drafted):
        sequence.append(TOKEN_IDS[:4])
    rows = drafted.extend(Draft.chain(TOKEN_IDS[4:9], source="test")).copy()
    for row, token_id in zip(rows, TOKEN_IDS[4:10], strict=True):
        np.testing.assert_array_equal(plain.extend(Draft.empty())[0], row)
        plain.append((token_id,))


# Tokens, widths, bits


def test_a_blend_of_tokens_blends_what_each_layer_gets_of_them(checkpoint: Path, model: Model) -> None:
    import torch
    import transformers

    token_ids, blend = np.array([[[5, 6], [300, 8], [9, 7]]]), np.array([[[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        weights, ids = torch.tensor(blend, dtype=torch.float32), torch.tensor(token_ids)
        embedded = (theirs.model.embed_tokens(ids) * weights[..., None]).sum(2)
        inputs = (theirs.model.get_per_layer_inputs(ids) * weights[..., None, None]).sum(2)
        wanted = theirs(inputs_embeds=embedded, per_layer_inputs=inputs).logits[0].numpy()
    cache = np.zeros((1, 2, 3, 32), np.float32)
    feeds = {
        "token_ids": token_ids,
        "token_weights": blend.astype(np.float32),
        "position_ids": np.arange(3)[None],
        "seqlens_k": np.array([2], np.int32),
        "total_sequence_length": np.array(3, np.int32),
        "attention_bias": np.zeros((1, 1, 3, 3), np.float32),
        "rows": np.arange(3),
        "attention_rows": np.arange(3),
        "token_rows": np.arange(3),
        **{f"past_{kind}_{layer}": cache for kind in ("key", "value") for layer in range(2)},
    }
    tables = model.sessions.rotary_tables(3)
    tables.reach(3)
    feeds |= {name: buffer.read() for name, buffer in tables.buffers().items()}
    assert_close(model.sessions.graphs[0].run(["logits"], feeds)[0], wanted)


@pytest.mark.parametrize("widths", [(30,) * 5, (76, 20, 44, 33, 7)])
def test_narrower_ffns_are_those_of_a_checkpoint_cut_by_hand(
    widths: tuple[int, ...], make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    """Sparsity is that of the gates that are left."""
    import torch

    settings = SETTINGS | {"intermediate_size": 76, "activation_sparsity_pattern": [0.9, 0.6, 0.0, 0.3, 0.8]}
    stated = ",".join(map(str, widths if len(set(widths)) > 1 else widths[:1]))
    bundle = make_bundle(make_checkpoint("gemma3n_text", **settings), ffn_width=stated)
    cut = random_model("gemma3n_text", "float32", TINY | settings | {"intermediate_size": list(widths)})
    weights = random_model("gemma3n_text", "float32", TINY | settings).state_dict()
    for name, wanted in cut.state_dict().items():
        weights[name] = weights[name][tuple(slice(size) for size in wanted.shape)]
    cut.load_state_dict(weights)
    with torch.no_grad():
        assert_close(logits_of(Model.open(bundle)), cut(torch.tensor([TOKEN_IDS])).logits[0].numpy())
    assert Bundle.open(bundle).manifest.dimensions.intermediate_size == max(widths)


def test_int4_shrinks_the_table_of_the_layers_and_spares_what_joins_streams(
    checkpoint: Path, make_bundle: MakeBundle
) -> None:
    full, small = (part_sizes(Bundle.open(make_bundle(checkpoint, precision=name))) for name in ("fp32", "int4"))
    assert full["per-layer embedding"] == 200 * 5 * 12 * 4
    assert small["per-layer embedding"] == 200 * (
        2 * (32 // 2 + 2) + 1
    )  # of each row two blocks and their scales, and zero points
    recipe = Recipe.named("int4")
    assert recipe.for_tensor("per_layer_embedding").bits == 4
    for name in ("altup.into_stream", "altup.from_stream.1", "layers.3.altup.laurel_left"):
        assert recipe.for_tensor(name).bits == 8


# Refusals


def test_exits_are_refused_with_the_reason(checkpoint: Path, make_bundle: MakeBundle) -> None:
    for exits in ("auto", "2"):
        with pytest.raises(UnsupportedModel, match=r"gemma3n_text has no exits: its streams.*leave out --exits"):
            make_bundle(checkpoint, exits=exits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_shared_layers": 5}, "num_kv_shared_layers must lie below 5, found 5"),
        ({"num_kv_shared_layers": -1}, "num_kv_shared_layers.*found -1"),
        ({"num_kv_shared_layers": None}, "num_kv_shared_layers.*found None"),
        ({"num_kv_shared_layers": 4}, "leaves no cache for full_attention"),
        ({"altup_num_inputs": 1}, "altup_num_inputs must be a whole number from 2, found 1"),
        ({"altup_active_idx": 3}, "altup_active_idx must lie below 3, got 3"),
        ({"laurel_rank": "6"}, "laurel_rank.*found '6'"),
        ({"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input.*found 0"),
        ({"vocab_size_per_layer_input": None}, "vocab_size_per_layer_input.*found None"),
        ({"activation_sparsity_pattern": [0.5]}, r"number for each of 5 layers, found \[0.5\]"),
        ({"activation_sparsity_pattern": 0.5}, "number for each of 5 layers, found 0.5"),
        ({"activation_sparsity_pattern": [1.0] * 5}, "activation_sparsity_pattern"),
        ({"intermediate_size": [76, 60]}, "intermediate_size has 2 widths for 5 layers"),
        ({"intermediate_size": [76, 60, 44, 0, 60]}, "intermediate_size.*found 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(TINY | SETTINGS | {"model_type": "gemma3n_text"} | change)

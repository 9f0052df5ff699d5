"""Pruned widths: sub-models are those that lack the channels, the regression finds costs, exports keep whole blocks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import write_gptq

from skipstone.api import plan
from skipstone.calibrate import Documents, LayerGraphs
from skipstone.devices import open_device
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import NarrowFfn
from skipstone.prune import find_pruning
from skipstone.prune.channels import ChannelGroups
from skipstone.prune.ffn_masks import states_behind
from skipstone.prune.refit import fitted_matrix
from skipstone.prune.regression import fitted_costs
from skipstone.prune.state_losses import StateLosses
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
KEPT = {1: (0, 3, 40), 2: tuple(range(5, 69))}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, biases": ("llama", {"mlp_bias": True}),
    "matrices in one": ("phi3", {"hidden_size": 64}),
    "the other way round": ("gpt2", {}),
    "norms before and behind": ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 5}),
}
WAYS_OUT = ("down_proj.weight", "mlp.c_proj.weight")


def planned(checkpoint: Path, **options: Any) -> ExportPlan:
    made = plan(checkpoint, **options)
    assert isinstance(made, ExportPlan)
    return made


def logits_of(bundle: Path) -> np.ndarray:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrowed_model_is_the_one_whose_channels_are_zero(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    import torch

    model_type, config = FAMILIES[family]
    model = random_model(model_type, "float32", TINY | config)
    for name, weight in model.named_parameters():
        for layer, channels in KEPT.items():
            if f".{layer}." in name and name.endswith(WAYS_OUT):
                columns = weight.data if model_type != "gpt2" else weight.data.T
                columns[:, [channel for channel in range(columns.shape[1]) if channel not in channels]] = 0
    with torch.no_grad():
        expected = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    bundle = make_bundle(make_checkpoint(model_type, **config), transforms=(NarrowFfn(KEPT),))
    np.testing.assert_allclose(logits_of(bundle), expected, rtol=0, atol=1e-4)


def test_sub_models_read_side_by_side_are_those_that_lack_the_channels(
    tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    whole = planned(tiny_checkpoint)
    masks = [np.ones((2, width), np.float32) for width in whole.architecture.ffn_widths]
    for layer, channels in KEPT.items():
        masks[layer][1] = 0
        masks[layer][1, list(channels)] = 1
    with tempfile.TemporaryDirectory() as folder:
        graphs = LayerGraphs(whole, open_device(), Path(folder))
        states = states_behind(graphs, np.array([TOKEN_IDS] * 2), masks)
        with graphs.head() as head:
            found = [head.logits(stream[None]) for stream in states]
            loss = StateLosses(head, states[:1]).losses(states, np.zeros(2, np.int64))
    narrow = make_bundle(tiny_checkpoint, transforms=(NarrowFfn(KEPT),))
    for logits, bundle in zip(found, (make_bundle(tiny_checkpoint), narrow), strict=True):
        np.testing.assert_allclose(logits, logits_of(bundle), rtol=0, atol=1e-4)
    assert loss[0] == pytest.approx(0, abs=1e-9) and loss[1] > 0


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_costs_that_follow_layers_are_found_from_few_sub_models(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, guesses = np.repeat(np.arange(4), 30), rng.uniform(0.5, 2, 120)
    factors = rng.permutation([0.2, 1.0, 3.0, 9.0])
    costs = guesses * factors[layers]
    absent = rng.random((48, 120)) < 0.5
    losses = absent @ costs * rng.normal(1, 0.02, 48)
    found = fitted_costs(absent, guesses, layers, losses)
    by_layer = [float((found / guesses)[layers == layer].mean()) for layer in range(4)]
    assert np.argsort(by_layer).tolist() == np.argsort(factors).tolist()
    assert np.abs(found - costs).sum() < 0.5 * np.abs(guesses * costs.sum() / guesses.sum() - costs).sum()


def test_groups_are_whole_blocks_and_the_strongest_stays() -> None:
    energies = [np.arange(76.0), np.arange(64.0)[::-1]]
    alive = [np.ones(76, bool), np.ones(64, bool)]
    groups = ChannelGroups.of(energies, alive)
    assert [group.tolist() for group in groups.members] == [
        [*range(43, 11, -1)],
        [*range(11, -1, -1)],
        [*range(32, 64)],
    ]
    left = groups.without(alive, groups.weakest(13))
    assert [int(there.sum()) for there in left] == [64, 32]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 11))
def test_fitted_matrices_give_what_all_channels_gave_more_nearly(seed: int, num_kept: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12))
    matrix = rng.normal(size=(5, 12)).astype(np.float32)
    kept = np.sort(rng.permutation(12)[:num_kept])
    fitted = fitted_matrix(matrix, inputs.T @ inputs / 50, kept)
    whole = inputs @ matrix.T
    before, after = (np.square(whole - inputs[:, kept] @ part.T).sum() for part in (matrix[:, kept], fitted))
    assert after <= before * (1 + 1e-6)


def test_export_narrows_and_says_what_it_costs(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(intermediate_size=160)
    for name in ("one", "two"):
        outcome = cli("export", checkpoint, "-o", tmp_path / name, "--precision", "int8", "--prune", "width:20%")
        assert outcome.code == 0, outcome.err
        assert "pruned FFN channels" in outcome.err and "% of the weights" in outcome.err
    one, two = (Bundle.open(tmp_path / name).manifest for name in ("one", "two"))
    assert one.files["weights.bin"] == two.files["weights.bin"]
    text = cli("generate", tmp_path / "one", "-p", "One", "--max-new-tokens", "4")
    assert text.code == 0, text.err


def test_as_many_channels_leave_as_the_amount_says(make_checkpoint: MakeCheckpoint) -> None:
    """Each of three rounds takes whole groups of 32; what one takes too many, the next takes fewer."""
    checkpoint = planned(make_checkpoint(num_hidden_layers=4, intermediate_size=128), precision="int8")
    narrow = find_pruning(checkpoint, "width:25%", Documents.read("auto")).transform
    assert isinstance(narrow, NarrowFfn)
    assert sum(128 - len(kept) for kept in narrow.channels.values()) == 128


def test_integers_of_narrowed_matrices_become_numbers(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    from gguf_files import WHOLE_BLOCKS

    checkpoint = write_gptq(tmp_path / "gptq", make_checkpoint(**WHOLE_BLOCKS))
    made = planned(checkpoint, transforms=[NarrowFfn({1: tuple(range(32))})], precision="int8")
    made.write(tmp_path / "out")
    assert np.isfinite(logits_of(tmp_path / "out")).all()


def test_models_that_cannot_be_narrowed_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    experts = planned(make_checkpoint("olmoe", hidden_size=48, num_experts=6, num_experts_per_tok=2))
    with pytest.raises(UnsupportedModel, match="its FFNs are experts"):
        find_pruning(experts, "width:20%", Documents.read("auto"))
    with pytest.raises(ConfigError, match="keep some of them"):
        planned(make_checkpoint(), transforms=[NarrowFfn({0: (76,)})])


def test_a_search_that_was_interrupted_goes_on(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    whole = planned(make_checkpoint(intermediate_size=160))

    def interrupt(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_pruning(whole, "width:20%", Documents.read("auto"), on_progress=interrupt)
    (kept,) = (tmp_path / "prunings").iterdir()
    assert '"0"' in kept.read_text(encoding="utf-8")
    shares: list[float] = []
    found = find_pruning(whole, "width:20%", Documents.read("auto"), on_progress=shares.append)
    assert found == find_pruning(whole, "width:20%", Documents.read("auto"))
    assert shares == sorted(shares) and shares[-1] == 1
    assert not [*(tmp_path / "prunings").iterdir()]

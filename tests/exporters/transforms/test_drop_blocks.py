"""`DropBlocks`: a model without some blocks is the one in which these add nothing, in whatever way it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from decoding import leave_out
from numpy.typing import NDArray

from skipstone.api import plan
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import DropBlocks, DropLayers, Rotation, SplitLayers
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
# What adds to the stream: the way out of attention, and of the FFN.
ATTENTION = ("o_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "attn.out_proj")
FFN = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc_out")
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied, with biases": ("llama", {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}),
    "matrices in one": ("phi3", {"hidden_size": 64}),
    "the other way round": ("gpt2", {}),
    "parallel, one norm": ("falcon", {"hidden_size": 64}),
    "parallel, two norms": ("gpt_neox", {"hidden_size": 64, "hidden_act": "gelu"}),
    "norms before and behind": ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 5}),
    "norms behind alone": ("olmo2", {}),
    "experts": ("olmoe", {"hidden_size": 48, "num_experts": 6, "num_experts_per_tok": 2}),
}
# Layer 1 keeps its FFN, layer 2 its attention, layer 3 nothing.
PRUNED = DropBlocks(attention=(1, 3), ffn=(2, 3))


def logits_of(bundle: Path) -> Logits:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def silenced(model_type: str, config: dict[str, Any], pruned: DropBlocks) -> Logits:
    """What transformers computes when some blocks add nothing to the stream."""
    import torch

    model = random_model(model_type, "float32", TINY | config)
    for layers, parts in ((pruned.attention, ATTENTION), (pruned.ffn, FFN)):
        for name, weight in model.named_parameters():
            if any(f".{layer}." in name for layer in layers) and any(f".{part}" in name for part in parts):
                weight.data[:] = 0
    with torch.no_grad():
        logits: Logits = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_the_one_whose_blocks_add_nothing(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config = FAMILIES[family]
    bundle = make_bundle(make_checkpoint(model_type, **config), transforms=(PRUNED,))
    expected = silenced(model_type, config, PRUNED)
    np.testing.assert_allclose(logits_of(bundle), expected, rtol=0, atol=1e-4)
    assert np.abs(silenced(model_type, config, DropBlocks()) - expected).max() > 0.01
    manifest = Bundle.open(bundle).manifest
    assert (manifest.dimensions.num_layers, len(manifest.cache)) == (3, 2)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "parallel" not in name])
def test_split_layers_are_the_same_model(family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model_type, config = FAMILIES[family]
    checkpoint = make_checkpoint(model_type, **config)
    whole, split = (logits_of(make_bundle(checkpoint, transforms=made)) for made in ((), (SplitLayers(),)))
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["int4", "int8"])
@pytest.mark.parametrize("family", ["llama, tied, with biases", "parallel, one norm", "experts"])
def test_folding_knows_what_is_not_there(
    family: str, precision: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config = FAMILIES[family]
    bundle = make_bundle(make_checkpoint(model_type, **config), transforms=(PRUNED,), precision=precision)
    assert np.isfinite(logits_of(bundle)).all()


def test_a_pruned_model_can_be_turned(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    plain, turned = (
        logits_of(make_bundle(tiny_checkpoint, transforms=transforms))
        for transforms in ((PRUNED,), (PRUNED, Rotation()))
    )
    np.testing.assert_allclose(turned, plain, rtol=0, atol=1e-3)


STRICT = ["auto", "ngram", "suffix,recycle", "jacobi", "lookahead", "self", "free", "skip"]


@pytest.mark.parametrize(("decode", "exact"), [*((way, False) for way in STRICT), ("ngram", True), ("self", True)])
def test_every_strict_loop_writes_the_text_of_a_model_with_fewer_caches(
    decode: str, exact: bool, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    """The exit ends in a layer without attention, which is a stage of its own, and an FFN is missing behind it."""
    pruned = DropBlocks(attention=(1,), ffn=(2,))
    model = Model.open(make_bundle(tiny_checkpoint, transforms=(pruned,), exits="2", cuts="each"))
    found, expected = (
        LanguageModel(leave_out(model, 1)).generate("def f(a):", decode=way, max_new_tokens=20, exact=exact).token_ids
        for way in (decode, "plain")
    )
    assert list(found) == list(expected)


@pytest.mark.parametrize(("decode", "dial"), [("skipdecode", 0.5), ("adaptive", 0.9)])
def test_loops_that_leave_layers_out_run_with_fewer_caches(
    decode: str, dial: float, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    pruned = DropBlocks(attention=(1,), ffn=(2,))
    model = Model.open(make_bundle(tiny_checkpoint, transforms=(pruned,), exits="2", cuts="each"))
    found = LanguageModel(model).generate("def f(a):", decode=decode, dial=dial, max_new_tokens=12)
    assert len(found.token_ids) == 12


def test_blocks_that_cannot_be_left_out_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    for pruned, reason in (
        (DropBlocks(), "leave blocks of 0 to 3 out"),
        (DropBlocks(ffn=(4,)), "are not there"),
        (DropBlocks(attention=(0, 1, 2, 3)), "no attention would be left"),
    ):
        with pytest.raises(ConfigError, match=reason):
            plan(make_checkpoint(), transforms=[pruned])
    with pytest.raises(UnsupportedModel, match="read the same input"):
        plan(make_checkpoint("falcon", hidden_size=64), transforms=[SplitLayers()])


def test_whole_layers_and_both_blocks_are_the_same(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    layers, blocks = (
        plan(checkpoint, transforms=[pruned]) for pruned in (DropLayers((1,)), DropBlocks(attention=(1,), ffn=(1,)))
    )
    assert isinstance(layers, ExportPlan) and isinstance(blocks, ExportPlan)
    assert layers.architecture == blocks.architecture

"""`--ffn-width`: a narrower FFN is the one whose weights somebody cut by hand, and what cannot be cut is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import TINY, MakeBundle, MakeCheckpoint, random_model
from gguf_files import WHOLE_BLOCKS
from hypothesis import given
from hypothesis import strategies as st
from lora_adapters import saved, trained
from numpy.typing import NDArray
from packed_checkpoints import TARGETS, write_gptq

from skipstone.api import plan
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.exporters.checkpoints import open_checkpoint
from skipstone.exporters.families import read_architecture
from skipstone.exporters.transforms import FfnWidth, apply
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=20).tolist()
TWO = {"num_hidden_layers": 2}
STORED = 76


def logits_of(bundle: Path) -> Logits:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


def silenced(model_type: str, config: dict[str, Any], widths: Sequence[int]) -> Logits:
    """What transformers computes when nothing comes out of the channels from each width on."""
    import torch

    model = random_model(model_type, "float32", TINY | config)
    for layer, width in enumerate(widths):
        for name, weight in model.named_parameters():
            is_down = any(part in name for part in ("mlp.down_proj.weight", "mlp.dense_4h_to_h.weight"))
            if f".{layer}." in name and is_down:
                weight.data[:, width:] = 0
            if f".{layer}.mlp.c_proj.weight" in name:  # of GPT-2, the other way round
                weight.data[width:] = 0
    with torch.no_grad():
        logits: Logits = model(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    return logits


# The same numbers

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gate and up": ("llama", {}),
    "gate and up with biases, tied": ("llama", {"mlp_bias": True, "tie_word_embeddings": True}),
    "gate and up in one": ("phi3", {"hidden_size": 64}),
    "up alone, the other way round": ("gpt2", {"n_inner": STORED}),
    "up alone with biases": ("gpt_neox", {"hidden_size": 64}),
    "up alone": ("falcon", {"hidden_size": 64, "ffn_hidden_size": STORED}),
    "scaled": ("granite", {"residual_multiplier": 0.5}),
}


@pytest.mark.parametrize("widths", [(40, 40), (1, STORED)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_model_is_the_one_whose_other_channels_are_silent(
    family: str, widths: tuple[int, int], make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model_type, config = FAMILIES[family]
    stated = ",".join(map(str, widths if widths[0] != widths[1] else widths[:1]))
    bundle = make_bundle(make_checkpoint(model_type, **TWO, **config), ffn_width=stated)
    wanted = silenced(model_type, TWO | config, widths)
    np.testing.assert_allclose(logits_of(bundle), wanted, rtol=0, atol=1e-4)
    assert np.abs(silenced(model_type, TWO | config, (STORED, STORED)) - wanted).max() > 0.01
    assert Bundle.open(bundle).manifest.dimensions.intermediate_size == max(widths)


@pytest.fixture(scope="session", params=[("llama", {}), ("phi3", {"hidden_size": 64})], ids=["llama", "phi3"])
def pair(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A checkpoint, and one of width 40 with the first channels of its weights."""
    model_type, config = request.param
    wide = make_checkpoint(model_type, **TWO, **config)
    cut = random_model(model_type, "float32", TINY | TWO | config | {"intermediate_size": 40})
    weights = random_model(model_type, "float32", TINY | TWO | config).state_dict()
    for name, wanted in cut.state_dict().items():
        rows = np.r_[:40, STORED : STORED + 40] if "gate_up" in name else slice(wanted.shape[0])
        weights[name] = weights[name][rows][..., : wanted.shape[-1]]
    cut.load_state_dict(weights)
    folder = tmp_path_factory.mktemp("cut")
    cut.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((wide / "tokenizer.json").read_bytes())
    return wide, folder


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_bundle_is_to_the_byte_that_of_weights_cut_by_hand(
    pair: tuple[Path, Path], precision: str, make_bundle: MakeBundle
) -> None:
    wide, cut = pair
    ours = Bundle.open(make_bundle(wide, precision=precision, ffn_width="40")).manifest
    by_hand = Bundle.open(make_bundle(cut, precision=precision)).manifest
    assert (ours.dimensions, ours.files) == (by_hand.dimensions, by_hand.files)
    assert ours.total_bytes < Bundle.open(make_bundle(wide, precision=precision)).manifest.total_bytes


def test_the_full_width_is_the_model_as_it_is(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(**TWO)
    whole = Bundle.open(make_bundle(checkpoint)).manifest
    for widths in ("76", "76,76"):
        assert Bundle.open(make_bundle(checkpoint, ffn_width=widths)).manifest.files == whole.files
        planned = plan(checkpoint, ffn_width=widths)
        assert isinstance(planned, ExportPlan) and planned.is_as_shipped


def test_an_adapter_is_merged_before_channels_are_taken(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    import torch

    checkpoint = make_checkpoint(**TWO)
    adapted = trained(checkpoint, target_modules=TARGETS)
    bundle = make_bundle(checkpoint, lora=saved(adapted, tmp_path), ffn_width="40")
    merged = adapted.merge_and_unload()
    for layer in merged.model.layers:
        layer.mlp.down_proj.weight.data[:, 40:] = 0
    with torch.no_grad():
        wanted = merged(torch.tensor([TOKEN_IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(bundle), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("widths", ["40", "40,64,20,76"])
def test_stages_and_drafts_are_those_of_the_narrower_model(
    widths: str, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    whole = make_bundle(tiny_checkpoint, ffn_width=widths)
    stages = make_bundle(tiny_checkpoint, ffn_width=widths, exits="auto")
    np.testing.assert_allclose(logits_of(stages), logits_of(whole), rtol=0, atol=1e-5)


# What is asked for


NONSENSE = ("", "8k", "4e1", "1.5", "40,", ",40", "40;40", "40 40", "forty")


@given(widths=st.lists(st.integers(1, STORED), min_size=4, max_size=4), spaces=st.sampled_from(["", " "]))
def test_one_width_is_for_every_layer_and_several_are_one_for_each(
    tiny_checkpoint: Path, widths: list[int], spaces: str
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    whole = read_architecture(checkpoint.config)
    each, tensors, _ = apply([FfnWidth(f",{spaces}".join(map(str, widths)))], whole, checkpoint.tensors)
    assert each.ffn_widths == tuple(widths) and each.dimensions.intermediate_size == max(widths)
    for name, shape in each.tensor_shapes().items():
        stored = checkpoint.tensors.read(name, whole.tensor_shapes()[name])
        np.testing.assert_array_equal(tensors.read(name, shape), stored[tuple(map(slice, shape))])
    alike, _, _ = apply([FfnWidth(str(widths[0]))], whole, checkpoint.tensors)
    assert alike.ffn_widths == (widths[0],) * 4


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("77", "layer 0 has 76 channels, 77 wanted; give 1 to 76"),
        ("0", "layer 0 has 76 channels, 0 wanted"),
        ("-1", "layer 0 has 76 channels, -1 wanted"),
        ("40,40,77,40", "layer 2 has 76 channels, 77 wanted"),
        ("40,40,40,0", "layer 3 has 76 channels, 0 wanted"),
        ("40,40", "2 widths for 4 layers; give one, or one per layer"),
        ("40,40,40,40,40", "5 widths for 4 layers"),
        *((text, f"takes a number, or one per layer like 8192,4096, not '{text}'") for text in NONSENSE),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths: str, message: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tiny_checkpoint, ffn_width=widths)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_are_not_nested(model_type: str, make_checkpoint: MakeCheckpoint) -> None:
    config = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "hidden_size": 64}
    with pytest.raises(UnsupportedModel, match="--ffn-width is for nested FFNs, and this model has experts"):
        plan(make_checkpoint(model_type, **TWO, **config), ffn_width="8")


def test_integers_are_not_cut_but_may_stay(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    packed = write_gptq(tmp_path / "gptq", make_checkpoint(**WHOLE_BLOCKS))
    for widths, layer in (("64", 0), ("96,64", 1)):
        message = rf"model\.layers\.{layer}\.mlp\.down_proj\.weight is stored as integers, whose blocks cannot be cut"
        with pytest.raises(UnsupportedModel, match=message):
            plan(packed, ffn_width=widths)
    whole = plan(packed, ffn_width="96")
    assert isinstance(whole, ExportPlan) and whole.num_kept == 14


def test_nonsense_is_refused_before_the_checkpoint_is_opened(cli: CommandLine, tmp_path: Path) -> None:
    done = cli("export", tmp_path / "nowhere", "-o", tmp_path / "out", "--ffn-width", "8k")
    assert (done.code, done.out) == (2, "")
    assert done.err == "skipstone: --ffn-width takes a number, or one per layer like 8192,4096, not '8k'\n"
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]

"""A bundle that carries its drafter: which pairs are refused, what is said of the others, and how the drafter opens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import MakeBundle, MakeCheckpoint
from tokenizers import decoders, models

from skipstone.api import export, plan
from skipstone.by_name import bundled_export as pebble
from skipstone.errors import BundleError, ConfigError
from skipstone.exporters import ExportOptions, plan_export, with_draft_model
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model
from skipstone.runtime.text import Spelling, Tokenizer, same_tokenizer

Refused = Callable[[Path, str], None]
SENTENCEPIECE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


@pytest.fixture
def small(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A drafter of one layer for `tiny_checkpoint`, a copy that a test may change."""
    return Path(shutil.copytree(make_checkpoint(num_hidden_layers=1), tmp_path / "small"))


@pytest.fixture
def refused(tiny_checkpoint: Path, tmp_path: Path, unreadable: None) -> Refused:
    """Check that a drafter is refused by its name, without a weight read or a file written."""

    def check(drafter: Path, message: str) -> None:
        named = re.escape(f"{drafter} cannot draft for {tiny_checkpoint}: ")
        with pytest.raises(ConfigError, match=named + message):
            export(tiny_checkpoint, tmp_path / "out", drafter=drafter)
        assert not (tmp_path / "out").exists()

    return check


def change_tokenizer(folder: Path, change: Callable[[tokenizers.Tokenizer], object]) -> Tokenizer:
    """Change `tokenizer.json` in `folder` and return what came out."""
    file = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    change(tokenizer)
    tokenizer.save(str(file))
    return Tokenizer.load(folder)


def write_words(folder: Path, words: Mapping[str, int], decoder: Any) -> None:
    """Give the checkpoint a tokenizer of whole words."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(dict(words), unk_token="<unk>"))
    tokenizer.decoder = decoder
    tokenizer.save(str(folder / "tokenizer.json"))


# Refusals


def test_the_target_itself_is_refused_by_whatever_path(refused: Refused, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny_checkpoint)
    for path in (tiny_checkpoint, tmp_path / "link"):
        refused(path, "they are the same checkpoint; name a smaller one")


def test_a_drafter_of_half_the_size_or_more_is_refused(refused: Refused, make_checkpoint: MakeCheckpoint) -> None:
    message = (
        r"it has 0\.\d\d M parameters, the target 0\.\d\d M, and a draft model that large cannot pay; take one below"
    )
    for num_layers in (2, 3):
        refused(make_checkpoint(num_hidden_layers=num_layers), message)


def test_a_drafter_that_carries_a_drafter_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    recipe, smallest = Recipe.named("fp32"), make_checkpoint(num_hidden_layers=1)
    options = ExportOptions(recipe=recipe)
    middle = with_draft_model(plan_export(make_checkpoint(), options), plan_export(smallest, options))
    with pytest.raises(ConfigError, match="it carries a draft model of its own; plan it without one"):
        with_draft_model(plan_export(make_checkpoint(num_hidden_layers=12), options), middle)


@pytest.mark.parametrize(
    "decoder",
    [
        *(None, decoders.ByteLevel(), decoders.Metaspace(), SENTENCEPIECE, decoders.WordPiece(), decoders.BPEDecoder()),
        *(decoders.ByteFallback(), decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])),
    ],
    ids=str,
)
def test_another_tokenizer_is_refused_where_drafting_would_refuse_it(
    refused: Refused, tiny_checkpoint: Path, small: Path, decoder: Any
) -> None:
    def change(tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.decoder = decoder
        tokenizer.add_tokens(["<other>"])

    changed = change_tokenizer(small, change)
    try:
        Spelling(changed)
    except ConfigError:
        steps = re.escape(" + ".join(changed.decoder_steps) or "missing")
        refused(
            small,
            f"the tokenizers differ, .* the decoder of the draft model is {steps} .*; take a draft model with the",
        )
    else:
        assert "drafts go through text" in plan(tiny_checkpoint, drafter=small).remarks[0]


def test_another_tokenizer_is_refused_where_the_target_has_no_decoder(small: Path, tiny_checkpoint: Path) -> None:
    target = Path(shutil.copytree(tiny_checkpoint, small.parent / "target"))
    change_tokenizer(target, lambda tokenizer: setattr(tokenizer, "decoder", None))
    assert plan(target, drafter=small).remarks == ()  # the same ids, so nothing goes through text
    change_tokenizer(small, lambda tokenizer: tokenizer.add_tokens(["<other>"]))
    with pytest.raises(ConfigError, match="the decoder of the target is missing"):
        plan(target, drafter=small)


def test_vocabularies_that_share_almost_nothing_are_refused(refused: Refused, small: Path) -> None:
    words = [f"猫{number}" for number in range(96)]
    write_words(small, {word: index for index, word in enumerate([*words, *"abcd"])}, decoders.Metaspace())
    refused(
        small, r"of its tokens 4\.0% are tokens of the target, and 5% are wanted; take a draft model of the target's"
    )


# What is allowed


def test_a_good_pair_gets_no_remark(tiny_checkpoint: Path, small: Path) -> None:
    assert plan(tiny_checkpoint, drafter=small).remarks == ()


def test_a_shorter_context_is_allowed_with_a_remark(tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint) -> None:
    short, longer = (make_checkpoint(num_hidden_layers=1, max_position_embeddings=size) for size in (128, 512))
    remark = "the draft model sees 128 tokens and the target 256: in a longer text it stops drafting"
    assert plan(tiny_checkpoint, drafter=short).remarks == (remark,)
    assert plan(tiny_checkpoint, drafter=longer).remarks == ()


def test_other_stop_tokens_are_allowed_with_a_remark(tiny_checkpoint: Path, small: Path) -> None:
    settings = json.loads((small / "generation_config.json").read_text())
    remarks = []
    for stop_ids in ([7, 2], [2], None):
        (small / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": stop_ids}))
        remarks.append(plan(tiny_checkpoint, drafter=small).remarks)
    remark = "the tokens that end a text differ, {} in the draft model and 2 in the target: those of the target hold"
    assert remarks == [(remark.format("7, 2"),), (), ()]  # "</s>" ends a text by its name too


def test_the_same_tokenizer_written_in_another_way_is_the_same(tiny_checkpoint: Path, small: Path) -> None:
    file = small / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))
    assert file.read_bytes() != (tiny_checkpoint / "tokenizer.json").read_bytes()
    assert plan(tiny_checkpoint, drafter=small).remarks == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: None,
        lambda tokenizer: tokenizer.add_tokens(["<other>"]),
        lambda tokenizer: tokenizer.add_special_tokens(["add"]),
        lambda tokenizer: tokenizer.enable_truncation(7),
    ],
    ids=["nothing", "a token", "a role", "truncation"],
)
def test_the_export_calls_tokenizers_the_same_when_drafting_does(
    tiny_checkpoint: Path, small: Path, change: Callable[[tokenizers.Tokenizer], object]
) -> None:
    same = same_tokenizer(Tokenizer.load(tiny_checkpoint), change_tokenizer(small, change))
    assert (plan(tiny_checkpoint, drafter=small).remarks == ()) == same


def test_a_space_is_a_space_in_every_vocabulary(tiny_checkpoint: Path, small: Path) -> None:
    """The target, byte-level, writes it with another letter than the drafter."""
    target = Tokenizer.load(tiny_checkpoint)
    with_space = [piece for index in range(300) if (piece := target.piece(index) or "").startswith("Ġ")]
    assert with_space
    words = {piece.replace("Ġ", "▁"): index for index, piece in enumerate(with_space)}
    write_words(small, words, decoders.Metaspace())
    (remark,) = plan(tiny_checkpoint, drafter=small).remarks
    assert remark == "the tokenizers differ, 100% of the draft model's tokens are shared: drafts go through text"


# Options


def test_the_drafter_gets_the_precision_of_the_target_or_its_own(tiny_checkpoint: Path, small: Path) -> None:
    for stated, wanted in ((None, "int8"), ("fp32", "fp32")):
        drafter = plan(tiny_checkpoint, precision="int8", drafter=small, drafter_precision=stated).draft_model
        assert drafter is not None
        assert drafter.recipe.name == wanted


def test_the_precision_of_a_drafter_without_a_drafter_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="the draft model's precision is int8, but there is no draft model"):
        plan(tiny_checkpoint, drafter_precision="int8")


# The drafter of a model


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint, drafter=make_checkpoint(num_hidden_layers=1))


def test_a_model_opens_its_drafter_once_on_its_own_device(pair: Path, tiny: Model) -> None:
    model = Model.open(pair, profiles=pair.parent)
    drafter = model.draft_model
    assert drafter is not None
    assert (drafter.manifest.dimensions.num_layers, drafter.bundle.path) == (1, pair / "drafter")
    assert (drafter.device, drafter.profiles) == (model.device, model.profiles)
    assert model.draft_model is drafter
    assert (drafter.draft_model, tiny.draft_model) == (None, None)


def test_a_drafter_is_not_opened_before_it_is_asked_for(pair: Path, tmp_path: Path) -> None:
    model = Model.open(shutil.copytree(pair, tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy" / "drafter")
    with pytest.raises(BundleError, match=r"copy/drafter is not a folder"):
        _ = model.draft_model


def test_the_bundle_of_pebble_carries_pebble_mini_and_its_place_tells_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    whole, small = (Bundle.open(pebble.bundled_bundle(name)) for name in ("pebble", "pebble-mini"))
    drafter = whole.open_draft_model()
    assert drafter is not None
    assert drafter.manifest.files == small.manifest.files
    assert small.manifest.draft_model is None
    monkeypatch.delitem(pebble.DRAFTERS, "pebble")
    assert pebble.bundled_bundle("pebble") != whole.path


def test_pebble_is_exported_with_a_drafter_only_when_asked() -> None:
    assert plan("pebble").draft_model is None
    chosen = plan("pebble", drafter="pebble-mini")
    assert chosen.draft_model is not None
    assert chosen.remarks == ()

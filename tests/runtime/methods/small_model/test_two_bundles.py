"""Another bundle as the small model: it takes the place of the one inside, and what cannot serve is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from altered_bundles import fit_manifest
from conftest import MakeBundle, MakeCheckpoint
from typer.testing import CliRunner

import skipstone
from skipstone.cli.app import program
from skipstone.cli.options import require_drafter, require_suffix
from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import weighed_methods

METHODS = ("model", "async-model", "tree", "staged", "big-little")
APPROXIMATE = {"big-little": 5.0, "switch": 20.0, "cascade": 0.0}


@pytest.fixture(scope="session")
def large(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


@pytest.fixture(scope="session")
def small_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(num_hidden_layers=1, initializer_range=0.5)


@pytest.fixture(scope="session")
def small(small_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(small_checkpoint)


@pytest.fixture(scope="session")
def joined(tiny_checkpoint: Path, small_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    """Both in one bundle."""
    return make_bundle(tiny_checkpoint, drafter=small_checkpoint)


@pytest.mark.parametrize("decode", METHODS)
def test_every_method_of_a_small_model_drafts_with_the_other_bundle(large: Path, small: Path, decode: str) -> None:
    model = skipstone.load(large, draft_model=small)
    found, plain = (model.generate("def f(", max_new_tokens=30, decode=name) for name in (decode, "plain"))
    assert found.token_ids == plain.token_ids
    assert found.stats.drafters[decode].drafted > 0


@pytest.mark.parametrize("decode", APPROXIMATE)
def test_another_bundle_does_what_the_same_model_does_inside(
    large: Path, small: Path, joined: Path, decode: str
) -> None:
    apart, together = (
        model.generate("def f(", max_new_tokens=30, decode=decode, dial=APPROXIMATE[decode])
        for model in (skipstone.load(large, draft_model=small), skipstone.load(joined))
    )
    assert apart.token_ids == together.token_ids
    assert (apart.stats.depths, apart.stats.drafters) == (together.stats.depths, together.stats.drafters)


def test_the_bundle_that_is_given_takes_the_place_of_the_one_inside(
    joined: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    other = make_bundle(make_checkpoint(num_hidden_layers=2))
    for model, wanted in ((Model.open(joined), joined / "drafter"), (Model.open(joined, draft_model=other), other)):
        assert model.has_draft_model and model.draft_model is not None
        assert model.draft_model.bundle.path == wanted
        assert model.draft_model.device is model.device


def test_auto_weighs_a_small_model_wherever_it_comes_from(large: Path, small: Path, joined: Path) -> None:
    assert "model" not in [method.name for method in weighed_methods(Model.open(large))]
    assert not Model.open(large).has_draft_model
    for model in (Model.open(large, draft_model=small), Model.open(joined)):
        assert "model" in [method.name for method in weighed_methods(model)]


def test_a_small_model_may_carry_one_of_its_own_which_nobody_asks(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, joined: Path
) -> None:
    large = make_bundle(make_checkpoint(num_hidden_layers=8))
    model = skipstone.load(large, draft_model=joined)
    found, plain = (model.generate("def f(", max_new_tokens=16, decode=name) for name in ("big-little", "plain"))
    assert found.token_ids == plain.token_ids


@pytest.mark.slow
@pytest.mark.parametrize(("decode", "dial"), [("big-little", None), ("big-little", 0), ("switch", 0), ("cascade", 1)])
def test_on_a_real_pair_every_method_writes_the_plain_text_at_its_plain_end(decode: str, dial: float | None) -> None:
    model = skipstone.load("pebble", draft_model="pebble-mini")
    for prompt in ("def read_config(path):\n", "import os\nimport sys\n\n\nclass Parser:\n", "x"):
        for sampling in ({}, {"temperature": 0.8, "seed": 5}):
            options = {"max_new_tokens": 64, "exact": True, **sampling}
            found = model.generate(prompt, decode=decode, dial=dial, **options)
            assert found.token_ids == model.generate(prompt, decode="plain", **options).token_ids


# What is refused


def test_a_small_model_that_is_not_smaller_is_refused(large: Path, small: Path, joined: Path) -> None:
    for target, drafter in ((small, large), (large, large), (large, joined)):
        with pytest.raises(ConfigError, match=r"cannot draft for .* the target 0\.\d MB; take a smaller bundle"):
            skipstone.load(target, draft_model=drafter)


def test_a_folder_that_is_no_bundle_is_refused_at_once(large: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no .* here"):
        skipstone.load(large, draft_model=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: it has no skipstone\.json"):
        skipstone.load(large, draft_model=tmp_path / "empty")


@pytest.fixture(scope="session")
def foreign(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with two tokens exchanged, as one of another family."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("foreign") / "bundle")
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    text = tokenizers.Tokenizer.from_str(json.dumps(state)).to_str()
    size = file.stat().st_size
    file.write_text(text + " " * (size - len(text.encode())), encoding="utf-8")
    return fit_manifest(folder)


@pytest.mark.parametrize("decode", ["async-model", "tree", "staged", *APPROXIMATE])
def test_a_small_model_with_other_tokens_is_refused_where_tokens_are_shared(
    large: Path, foreign: Path, decode: str
) -> None:
    model = skipstone.load(large, draft_model=foreign)
    with pytest.raises(ConfigError, match=f"'{decode}' needs a small model with the tokenizer of the large one"):
        model.stream("def f(", max_new_tokens=8, decode=decode, dial=APPROXIMATE.get(decode))


def test_a_small_model_with_other_tokens_drafts_through_text(large: Path, foreign: Path) -> None:
    model = skipstone.load(large, draft_model=foreign)
    found, plain = (model.generate("def f(", max_new_tokens=16, decode=name) for name in ("model", "plain"))
    assert found.token_ids == plain.token_ids


# The command line


def generated(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(program([]), ["generate", *map(str, arguments), "-p", "def f(", "-n", "12", "--quiet"])
    return found.exit_code, found.stdout


def test_the_command_line_takes_another_bundle(large: Path, small: Path) -> None:
    plain = generated(large, "--decode", "plain")
    assert plain[0] == 0 and plain[1]
    assert generated(large, "--decode", "big-little", "--drafter", small) == plain


def test_an_option_that_the_method_would_not_use_is_refused(large: Path, small: Path) -> None:
    found = CliRunner().invoke(
        program([]), ["generate", str(large), "-p", "x", "--decode", "ngram", "--drafter", str(small)]
    )
    assert isinstance(found.exception, ConfigError)
    assert str(found.exception) == "--draft-model names a small model, which --decode ngram does not use; add model"


@pytest.mark.parametrize("decode", ["plain", "exit"])
def test_what_cannot_be_joined_is_not_told_to_add_a_drafter(decode: str) -> None:
    with pytest.raises(ConfigError, match=f"--decode {decode} does not use; leave it out"):
        require_drafter(decode, "mini")
    with pytest.raises(ConfigError, match=f"--decode {decode} does not use; leave it out"):
        require_suffix(decode, Path("texts"))

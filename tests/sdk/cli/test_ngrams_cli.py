"""`skipstone ngrams`: a store of the user's files, which suggestions use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import CORPUS, MakeBundle

from skipstone.api import load
from skipstone.errors import BundleError, ConfigError
from skipstone.ngrams import ngrams_for, parse_size, vocabulary_of
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.text import NgramStore

PROMPT = "def add(first, second):"


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two texts, one deeper, and files that are none."""
    texts = tmp_path / "texts"
    (texts / "deeper").mkdir(parents=True)
    (texts / "a.txt").write_text(CORPUS[0], encoding="utf-8")
    (texts / "deeper" / "b.txt").write_text(CORPUS[2], encoding="utf-8")
    (texts / "picture.bin").write_bytes(b"\xff\xfe\x00picture")
    (texts / "zeros").write_bytes(b"a\0b")
    (texts / ".hidden").write_text("secret secret secret")
    return texts


def test_files_and_folders_are_counted(cli: CommandLine, bundle: Path, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "my.ngrams"
    run = cli("ngrams", folder, folder / "a.txt", "-o", store, "--bundle", bundle, "--json")
    facts = json.loads(run.out)
    assert run.code == 0
    assert facts["files"] == 2 and facts["skipped"] == 2 and facts["bytes"] == store.stat().st_size
    assert "tokens of 2 files, 2 left out" in run.err
    opened = NgramStore.open(store, vocabulary=vocabulary_of(Bundle.open(bundle)))
    assert opened.header.num_tokens == facts["tokens"]
    tokenizer = load(bundle).runtime.tokenizer
    text = tokenizer.encode(CORPUS[0], add_special_tokens=False)
    found = opened.continuations(text[3:8])
    assert found is not None and text[8] in found.token_ids


def test_a_store_leads_superposed_drafts(cli: CommandLine, bundle: Path, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "my.ngrams"
    cli("ngrams", folder, "-o", store, "--bundle", bundle)
    model = load(bundle)
    led = model.suggest(PROMPT, method="superposed", ngrams=store)
    assert led == model.suggest(PROMPT, method="superposed", ngrams=ngrams_for(model.runtime, str(store)))
    assert led != model.suggest(PROMPT, method="superposed")
    with pytest.raises(BundleError, match="cannot be read"):
        model.suggest(PROMPT, method="superposed", ngrams=tmp_path / "none")


def test_what_is_rare_can_be_left_out(cli: CommandLine, bundle: Path, folder: Path, tmp_path: Path) -> None:
    sizes = []
    for number, options in enumerate([(), ("--min-count", 2), ("--max-size", "3kB")]):
        run = cli("ngrams", folder, "-o", tmp_path / str(number), "--bundle", bundle, "--json", *options)
        sizes.append(json.loads(run.out)["bytes"])
    assert sizes[1] < sizes[0] and sizes[2] <= 3000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}/none", "-o", "{}/s"), "is not there"),
        (("{}/picture.bin", "-o", "{}/s"), "no UTF-8"),
        (("{}/deeper", "-o", "{}/a.txt"), "--force"),
        (("{}/a.txt", "-o", "{}/s", "--max-size", "3 pages"), "500kB"),
        (("{}/empty", "-o", "{}/s"), "no text to count"),
    ],
)
def test_mistakes_are_one_line(
    cli: CommandLine, bundle: Path, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "empty").mkdir()
    run = cli("ngrams", *(argument.format(folder) for argument in arguments), "--bundle", bundle)
    assert run.code == 2 and message in run.err and run.err.count("\n") == 1
    assert not (folder / "s").exists()


def test_force_replaces(cli: CommandLine, bundle: Path, folder: Path) -> None:
    assert cli("ngrams", folder / "a.txt", "-o", folder / "zeros", "--bundle", bundle, "--force").code == 0
    assert (folder / "zeros").read_bytes().startswith(b"skipstone n-gram store")


def test_sizes_are_read() -> None:
    assert [parse_size(text) for text in ("3MB", "500 kb", "1.5GB")] == [3_000_000, 500_000, 1_500_000_000]
    with pytest.raises(ConfigError):
        parse_size("3")


def test_pebble_has_a_store_of_code_that_other_tokenizers_refuse(bundle: Path) -> None:
    pebble = load("pebble").runtime
    store = ngrams_for(pebble, "pebble")
    assert store is not None and ngrams_for(pebble, None) is None
    found = store.continuations(pebble.tokenizer.encode("import"))
    assert found is not None and found.total > 1000
    with pytest.raises(BundleError):
        ngrams_for(load(bundle).runtime, "pebble")

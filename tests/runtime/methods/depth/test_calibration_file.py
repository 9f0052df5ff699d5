"""Calibrations on disk: what was saved is read again, and what belongs to another bundle is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import (
    Calibration,
    ExitLevels,
    Level,
    calibration_path,
    find_calibration,
    read_calibration,
    save_calibration,
)

LEVELS = (
    Level(agreement=0.9, metric="gap", threshold=0.25, share=0.5),
    Level(agreement=0.99, metric="top", threshold=None, share=0.0),
)
EXITS = (ExitLevels(num_layers=2, agreement=0.7, levels=LEVELS), ExitLevels(num_layers=9, agreement=0.8, levels=()))


@pytest.fixture
def manifest(tiny_stages: Model) -> Manifest:
    return tiny_stages.manifest


@pytest.fixture
def calibration(manifest: Manifest) -> Calibration:
    weights = manifest.files["weights.bin"].sha256
    return Calibration(weights=weights, recipe=manifest.recipe, num_tokens=5000, error_rate=0.05, exits=EXITS)


def test_what_was_saved_is_found_again(manifest: Manifest, calibration: Calibration, tmp_path: Path) -> None:
    path = calibration_path(manifest, tmp_path / "new")
    assert save_calibration(calibration, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert find_calibration(manifest, tmp_path / "new") == calibration == read_calibration(path, manifest)


def test_the_name_of_the_file_depends_on_weights_recipe_and_exits(manifest: Manifest, tmp_path: Path) -> None:
    others = [
        replace(manifest, recipe={**manifest.recipe, "name": "int8"}),
        replace(manifest, exits=manifest.exits[:1]),
        replace(manifest, files={**manifest.files, "weights.bin": manifest.files["tokenizer.json"]}),
    ]
    assert len({calibration_path(one, tmp_path) for one in [manifest, *others]}) == 4
    elsewhere = replace(manifest, provenance=replace(manifest.provenance, source="another folder"))
    assert calibration_path(elsewhere, tmp_path) == calibration_path(manifest, tmp_path)


def test_nothing_is_found_where_nothing_is_kept_or_what_is_kept_is_damaged(
    manifest: Manifest, calibration: Calibration, tmp_path: Path
) -> None:
    assert find_calibration(manifest, None) is None
    assert find_calibration(manifest, tmp_path) is None
    path = calibration_path(manifest, tmp_path)
    save_calibration(calibration, path)
    assert find_calibration(replace(manifest, exits=()), tmp_path) is None
    path.write_text(path.read_text()[:-40])
    assert find_calibration(manifest, tmp_path) is None


def test_a_folder_that_cannot_be_written_is_no_error(calibration: Calibration, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert not save_calibration(calibration, tmp_path / "taken" / "exits.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "ab" * 32}, r"own\.json was made for weights abababababab, the bundle has "),
        ({"recipe": {"name": "int8"}}, r"own\.json was made for precision int8, the bundle has fp32; make one"),
        ({"recipe": {"name": "fp32", "x": 1}}, r"was made for another recipe of precision fp32; make one"),
        ({"exits": EXITS[1:]}, r"own\.json knows exits after 9 layers, the bundle has others; make one"),
    ],
)
def test_a_file_made_for_another_bundle_is_refused(
    manifest: Manifest, calibration: Calibration, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_calibration(replace(calibration, **change), tmp_path / "own.json")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"{message}.*`skipstone tune BUNDLE --exits --text FILE`"):
        read_calibration(tmp_path / "own.json", manifest)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"format_version": 1}'])
def test_a_file_that_is_no_calibration_is_refused(manifest: Manifest, tmp_path: Path, content: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match=r"own\.json is no calibration of this version; make one with"):
        read_calibration(tmp_path / "own.json", manifest)


def test_a_newer_or_a_missing_file_is_refused(manifest: Manifest, calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    with pytest.raises(ConfigError, match=r"own\.json cannot be read: No such file"):
        read_calibration(path, manifest)
    save_calibration(calibration, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(ConfigError, match="is no calibration of this version"):
        read_calibration(path, manifest)

"""Layers to leave out, on disk: kept for weights, refused for others, and matched with the stages of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.exporters import plan_stages
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import SkipSet, read_skip_set, save_skip_set, skip_path, skipped_stages


@pytest.fixture
def manifest(tiny_stages: Model) -> Manifest:
    return tiny_stages.manifest


@pytest.fixture
def known(manifest: Manifest) -> SkipSet:
    return SkipSet(
        weights=manifest.files["weights.bin"].sha256,
        num_tokens=2048,
        layers=(1, 2),
        agreement=0.75,
        guess_cost=0.5,
        speed_up=1.25,
        length=3,
    )


def test_what_was_saved_is_read_again(manifest: Manifest, known: SkipSet, tmp_path: Path) -> None:
    path = skip_path(manifest, tmp_path / "new")
    assert save_skip_set(known, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read_skip_set(path, manifest) == known


def test_the_name_of_the_file_depends_on_weights_and_recipe_and_not_on_stages(
    manifest: Manifest, tiny: Model, tmp_path: Path
) -> None:
    others = [
        replace(manifest, recipe={**manifest.recipe, "name": "int8"}),
        replace(manifest, files={**manifest.files, "weights.bin": manifest.files["tokenizer.json"]}),
    ]
    assert len({skip_path(one, tmp_path) for one in [manifest, *others]}) == 3
    assert skip_path(tiny.manifest, tmp_path) == skip_path(manifest, tmp_path)


def test_a_folder_that_cannot_be_written_is_no_error(known: SkipSet, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert not save_skip_set(known, tmp_path / "taken" / "skip.json")


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"format_version": 1}'])
def test_a_file_that_is_something_else_is_refused(manifest: Manifest, tmp_path: Path, content: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match=r"own\.json holds no layers to leave out; make it again with `skipstone tu"):
        read_skip_set(tmp_path / "own.json", manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "ab" * 32}, r"was made for weights abababababab, the bundle has .*; make it with `skipstone tune"),
        ({"layers": ()}, r"leaves out layers \[\], of 1 to 2"),
        ({"layers": (0, 1)}, r"leaves out layers \[0, 1\], of 1 to 2"),
        ({"layers": (3,)}, r"leaves out layers \[3\], of 1 to 2"),
    ],
)
def test_a_set_that_does_not_go_with_the_bundle_is_refused(
    manifest: Manifest, known: SkipSet, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_skip_set(replace(known, **change), tmp_path / "own.json")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        read_skip_set(tmp_path / "own.json", manifest)


def test_a_newer_or_a_missing_file_is_refused(manifest: Manifest, known: SkipSet, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    with pytest.raises(ConfigError, match=r"own\.json cannot be read: No such file"):
        read_skip_set(path, manifest)
    save_skip_set(known, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(ConfigError, match="holds no layers to leave out"):
        read_skip_set(path, manifest)


def cut(manifest: Manifest, num_layers: int, cuts: list[int]) -> Manifest:
    """Return the manifest of a model of so many layers, with stages that end there."""
    stages = plan_stages(num_layers, (), cuts)
    files = {stage.file: manifest.files["head.onnx"] for stage in stages}
    return replace(
        manifest,
        dimensions=replace(manifest.dimensions, num_layers=num_layers),
        stages=stages,
        head="head.onnx" if cuts else None,
        exits=(),
        files={**manifest.files, **files},
    )


@given(layers=st.sets(st.integers(1, 8), min_size=1), cuts=st.sets(st.integers(1, 9)))
def test_layers_are_whole_stages_or_the_cuts_that_make_them_so_are_told(
    tiny_stages: Model, layers: set[int], cuts: set[int]
) -> None:
    wanted = tuple(sorted(layers))
    manifest = cut(tiny_stages.manifest, 10, sorted(cuts))
    try:
        found = skipped_stages(manifest, wanted)
    except ConfigError as error:
        told = str(error).partition("--cuts ")[2].partition("`")[0]
        needed = {int(number) for number in told.split(",")}
        assert not needed <= cuts
        manifest = cut(tiny_stages.manifest, 10, sorted(needed))
        found = skipped_stages(manifest, wanted)
    held = [range(manifest.stages[number].first_layer, manifest.stages[number].end_layer) for number in found]
    assert tuple(layer for stage in held for layer in stage) == wanted

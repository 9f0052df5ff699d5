"""Layers to leave out: kept for weights, refused for others, and matched with the stages of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.exporters import plan_stages
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import SkipSet, skip_note, skipped_stages


@pytest.fixture
def manifest(tiny_stages: Model) -> Manifest:
    return tiny_stages.manifest


@pytest.fixture
def known(manifest: Manifest) -> SkipSet:
    return SkipSet(
        num_tokens=2048,
        layers=(1, 2),
        agreement=0.75,
        guess_cost=0.5,
        speed_up=1.25,
        length=3,
    )


def test_the_name_of_the_file_depends_on_weights_and_recipe_and_not_on_stages(
    manifest: Manifest, tiny: Model, tmp_path: Path
) -> None:
    others = [
        replace(manifest, recipe={**manifest.recipe, "name": "int8"}),
        replace(manifest, files={**manifest.files, "weights.bin": manifest.files["tokenizer.json"]}),
    ]
    assert len({skip_note(one).path(tmp_path) for one in [manifest, *others]}) == 3
    assert skip_note(tiny.manifest).path(tmp_path) == skip_note(manifest).path(tmp_path)


def test_a_set_for_other_weights_is_refused(manifest: Manifest, known: SkipSet, tmp_path: Path) -> None:
    note = skip_note(manifest)
    replace(note, made_for={"weights": "ab" * 32}).save(known, tmp_path / "own.json")
    with pytest.raises(
        ConfigError, match=r"was made for weights abababababab, the bundle has .*`skipstone tune skip BUNDLE"
    ):
        note.read(tmp_path / "own.json")


@pytest.mark.parametrize("layers", [(), (0, 1), (3,)])
def test_the_first_and_the_last_layer_are_never_left_out(manifest: Manifest, layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be left out, only some of 1 to 2; search again with `skipstone tune"):
        skipped_stages(manifest, layers)


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

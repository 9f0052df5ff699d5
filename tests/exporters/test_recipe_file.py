"""Recipes from files: what they may say, what is wrong with them in one line, and that bundles say theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeCheckpoint
from family_cases import CASES

from skipstone.api import export, plan
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan, RecipeFile
from skipstone.exporters.graph import matrix_names
from skipstone.quant import QuantizedMatrix, Recipe, TensorRecipe, quantize
from skipstone.runtime.bundle import Bundle

ALL: dict[str, Any] = {"pattern": "*", "bits": 4}
FAMILIES = ("llama", "llama, tied", "gpt2", "phi3", "gpt_neox", "gemma3n_text", "olmoe", "falcon, one key-value head")


def recipe(**fields: Any) -> dict[str, Any]:
    return {"name": "mine", "rules": [ALL], **fields}


def weights(bundle: Path) -> str:
    return Bundle.open(bundle).manifest.files["weights.bin"].sha256


@pytest.mark.parametrize("precision", ["int4", "int4-fast", "int8", "fp32"])
def test_what_a_recipe_says_in_json_is_read_back(precision: str) -> None:
    named = Recipe.named(precision)
    for own in (named, named if precision == "fp32" else named.calibrated()):
        assert RecipeFile.read(own.to_json()).recipe == own


def test_by_default_blocks_are_small_and_few_bits_have_zero_points() -> None:
    rules = [ALL, {"pattern": "head", "bits": 8}]
    assert [rule for _, rule in RecipeFile.read(recipe(rules=rules)).recipe.rules] == [
        TensorRecipe(bits=4, block_size=32, symmetric=False),
        TensorRecipe(bits=8, block_size=32, symmetric=True),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"rules": [ALL]}, "name is missing"),
        (recipe(colour="red"), "unknown field 'colour'"),
        (recipe(rules=[]), "first rule must be for '\\*', there is none"),
        (recipe(rules=[{"pattern": "head", "bits": 4}]), "first rule must be for"),
        (recipe(rules=[{"bits": 4}]), r"rules\[0\].pattern: a string is wanted"),
        (recipe(rules=[ALL, {"pattern": "head"}]), "the rule for 'head': bits is missing|bits is missing"),
        (recipe(rules=[{**ALL, "bits": 3}]), "the rule for '\\*': 3 bits per weight is not known; choose one of 2, 4"),
        (recipe(rules=[{**ALL, "bits": "4"}]), "bits: a whole number is wanted"),
        (recipe(rules=[{**ALL, "block_size": 48}]), "block size 48 is not supported"),
        (recipe(rules=[{**ALL, "method": "magic"}]), "choose one of search, absmax, weighted, gptq"),
        (recipe(rules=[{**ALL, "group_size": 32}]), "the rule for '\\*' has an unknown field 'group_size'"),
        (recipe(scales={"method": "magic"}), "choose one of gains, smooth, awq"),
        (recipe(scales={"method": "awq", "alphas": [2]}), "between 0 and 1, found 2"),
        (recipe(rotation={"seed": -1}), "from 0, found -1"),
        (recipe(calibration={"seed": 1}), "calibration.text is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        RecipeFile.read(data)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.json cannot be read: No such file"):
        RecipeFile.read(tmp_path / "missing.json")
    (tmp_path / "list.json").write_text("[4]")
    with pytest.raises(ConfigError, match="an object is wanted, found a list"):
        RecipeFile.read(tmp_path / "list.json")
    (tmp_path / "words.json").write_text("bits: 4")
    with pytest.raises(ConfigError, match="the file is not JSON"):
        RecipeFile.read(tmp_path / "words.json")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"recipe": recipe(rules=[ALL, {"pattern": "layers.*.dwon", "bits": 8}])}, r"matches no matrix of this model"),
        ({"recipe": recipe(), "precision": "int8"}, "leave --precision and --group-size out"),
        ({"recipe": recipe(rules=[{**ALL, "method": "gptq"}])}, "rounds by a text; add --calibrate"),
        ({"recipe": recipe(target="plain")}, "--target plain: add this option"),
        ({"recipe": recipe(rotation={}), "via": "optimum"}, "rotation with seed 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    options: dict[str, Any], reason: str, make_checkpoint: MakeCheckpoint, tmp_path: Path, unreadable: None
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        export(make_checkpoint(), tmp_path / "out", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_that_patterns_see_are_those_of_all_matrices(
    family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    case, seen = CASES[family], set[str]()

    def round_and_note(name: str, matrix: Any, rule: TensorRecipe) -> QuantizedMatrix:
        seen.add(name.partition(".experts")[0] + ".experts" if ".experts" in name else name)
        return quantize(matrix, bits=8, block_size=32)

    made = plan(make_checkpoint(case.model_type, dtype=case.dtype, **case.config), precision="int8")
    assert isinstance(made, ExportPlan)
    replace(made, rounder=round_and_note).write(tmp_path / "out")
    assert set(matrix_names(made.architecture)) == seen


RECIPES: dict[str, dict[str, Any]] = {
    "bits and blocks": {"rules": [ALL, {"pattern": "layers.*.down", "bits": 8, "block_size": 64}]},
    "gains": {"scales": {"method": "gains"}},
    "a rotation": {"rotation": {"seed": 3, "heads": False}},
    "a rotation, scales by inputs and GPTQ": {
        "rotation": {"seed": 1},
        "scales": {"method": "awq", "alphas": [0, 0.5]},
        "rules": [{**ALL, "method": "gptq"}],
    },
    "smooth scales and a weighted search": {
        "scales": {"method": "smooth", "alphas": [0.6]},
        "rules": [ALL, {"pattern": "head", "bits": 8, "method": "weighted"}],
    },
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_bundle_made_by_the_recipe_of_a_bundle_is_the_same(
    name: str, tied: bool, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(num_hidden_layers=2, tie_word_embeddings=tied, max_position_embeddings=24)
    file, text = tmp_path / "recipe.json", tmp_path / "text.txt"
    file.write_text(json.dumps(recipe(**RECIPES[name])))
    text.write_text("def add(one, two): return one\n" * 300)
    calibrate = text if RecipeFile.read(file).recipe.reads_text else None
    first = export(checkpoint, tmp_path / "first", recipe=file, calibrate=calibrate)
    second = export(checkpoint, tmp_path / "second", recipe=first)
    assert weights(first) == weights(second) != weights(export(checkpoint, tmp_path / "plain", recipe=recipe()))
    assert Bundle.open(first).manifest.recipe == Bundle.open(second).manifest.recipe


@pytest.mark.parametrize("options", [{}, {"precision": "int8"}, {"precision": "int4", "group_size": 64}])
def test_the_recipe_of_a_bundle_with_a_named_precision_is_one(
    options: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    first = export(make_checkpoint(num_hidden_layers=1), tmp_path / "first", **options)
    second = export(make_checkpoint(num_hidden_layers=1), tmp_path / "second", recipe=first / "skipstone.json")
    assert weights(first) == weights(second)

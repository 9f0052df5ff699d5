"""Which recipe an export takes when none is asked for."""

from __future__ import annotations

import pytest
from conftest import MakeCheckpoint
from gguf_files import WriteGguf

from skipstone.exporters import ExportOptions, plan_export
from skipstone.exporters.options import SMALL_MODEL, default_recipe


def test_small_models_get_eight_bits_and_others_four() -> None:
    assert default_recipe(SMALL_MODEL - 1).name == "int8"
    assert default_recipe(SMALL_MODEL).name == "int4"


@pytest.mark.parametrize(
    ("asked", "recipe"),
    [
        ({}, "int8"),
        ({"precision": "int4"}, "int4"),
        ({"precision": "int4-fast"}, "int4-fast"),
        ({"group_size": 64}, "int4"),
    ],
)
def test_what_is_asked_for_goes_before_the_size(make_checkpoint: MakeCheckpoint, asked: dict, recipe: str) -> None:
    assert plan_export(make_checkpoint("llama"), ExportOptions.of(**asked)).recipe.name == recipe


def test_a_small_model_that_brings_integers_is_named_after_four_bits(write_gguf: WriteGguf) -> None:
    plan = plan_export(write_gguf("llama, blocks of 256", kind="Q4_0"), ExportOptions.of())
    assert plan.num_kept and plan.recipe.name == "int4"

"""The recipe: the last rule wins, names are known, JSON goes there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skipstone.quant import Recipe, ScaleRecipe, TensorRecipe, quantize
from skipstone.quant.recipe import WIDE_GROUP_SIZE
from skipstone.quant.tensor_recipe import DEFAULT_GROUP_SIZES


def test_the_last_matching_rule_holds() -> None:
    eight, four = TensorRecipe(bits=8), TensorRecipe(bits=4)
    recipe = Recipe(name="mine", rules=(("*", four), ("layers.*.down", eight), ("layers.1.*", four)))
    assert recipe.for_tensor("layers.0.down") is eight
    assert recipe.for_tensor("layers.1.down") is four
    assert recipe.for_tensor("head") is four


def test_int4_keeps_head_embedding_and_attention_at_eight_bits() -> None:
    recipe = Recipe.named("int4")
    for name in ("layers.3.gate_up", "layers.11.down"):
        assert recipe.for_tensor(name) == TensorRecipe(bits=4, block_size=DEFAULT_GROUP_SIZES[4], symmetric=False)
    for name in ("head", "embedding", "layers.3.o", "layers.11.qkv"):
        assert recipe.for_tensor(name) == TensorRecipe(bits=8, block_size=WIDE_GROUP_SIZE)


def test_only_recipes_with_few_bits_are_coarse() -> None:
    assert [Recipe.named(name).is_coarse for name in ("int4", "int4-fast", "int8", "fp32")] == [
        True,
        True,
        False,
        False,
    ]


def test_int4_fast_has_four_bits_everywhere() -> None:
    recipe = Recipe.named("int4-fast")
    assert {recipe.for_tensor(name).bits for name in ("layers.3.qkv", "head", "embedding")} == {4}


def test_int8_and_fp32_treat_all_tensors_alike() -> None:
    for precision, bits in (("int8", 8), ("fp32", 32)):
        recipe = Recipe.named(precision)
        assert recipe.name == precision
        assert {recipe.for_tensor(name).bits for name in ("layers.0.o", "head", "embedding")} == {bits}


def test_group_size_and_zero_points_reach_every_tensor() -> None:
    recipe = Recipe.named("int4", group_size=64, symmetric=False)
    for name in ("layers.0.o", "head", "embedding"):
        assert recipe.for_tensor(name).block_size == 64
        assert not recipe.for_tensor(name).symmetric


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int3"}, "int4, int4-fast, int8, fp32"),
        ({"precision": "int4", "group_size": 48}, "32, 64, 128"),
        ({"precision": "fp32", "group_size": 32}, "no groups"),
        ({"precision": "fp32", "symmetric": False}, "no groups"),
    ],
)
def test_an_unknown_name_answers_with_the_known_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.named(**options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 3}, "4, 8, 32"),
        ({"bits": 4, "block_size": 48}, "choose 16, 32"),
        ({"bits": 4, "block_size": 8}, "choose 16, 32"),
        ({"bits": 4, "method": "magic"}, "search, absmax"),
    ],
)
def test_a_tensor_recipe_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorRecipe(**fields)


def test_the_first_rule_must_match_everything() -> None:
    with pytest.raises(ValueError, match="first rule"):
        Recipe(name="mine", rules=(("head", TensorRecipe(bits=8)),))
    with pytest.raises(ValueError, match="first rule"):
        Recipe(name="mine", rules=())


def test_a_text_adds_scales_and_gptq_to_a_recipe_that_reads_none() -> None:
    recipe = Recipe.named("int4").calibrated()
    assert recipe.scales == ScaleRecipe(method="awq") and {rule.method for _, rule in recipe.rules} == {"gptq"}
    assert recipe.reads_text and not Recipe.named("int4").reads_text
    own = replace(recipe, scales=None)
    assert own.calibrated() is own


def test_rules_for_no_matrix_are_left_out() -> None:
    recipe = Recipe.named("int4").for_matrices(["head", "layers.0.qkv", "layers.0.down"])
    assert [pattern for pattern, _ in recipe.rules] == ["*", "head", "layers.*.qkv"]


@pytest.mark.parametrize(
    ("method", "alphas", "message"),
    [
        ("magic", (), "gains, smooth, awq"),
        ("smooth", (0.1, 0.2), "one alpha, found 2"),
        ("awq", (1.5,), "between 0 and 1"),
    ],
)
def test_scales_out_of_range_are_refused(method: str, alphas: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleRecipe(method=method, alphas=alphas)


def test_only_a_recipe_of_32_bits_is_called_fp32() -> None:
    with pytest.raises(ValueError, match="give it another name"):
        Recipe(name="fp32", rules=(("*", TensorRecipe(bits=8)),))
    assert Recipe(name="mine", rules=(("*", TensorRecipe(bits=32)),)).kl_bound == 0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 100])
def test_average_bits_is_the_size_of_what_quantize_makes(symmetric: bool, columns: int) -> None:
    recipe = Recipe.named("int4", symmetric=symmetric)
    sizes = {"layers.0.o": (6, columns), "head": (10, columns)}
    stored = 0
    for name, shape in sizes.items():
        rule = recipe.for_tensor(name)
        weight = np.ones(shape, np.float32)
        stored += quantize(weight, bits=rule.bits, block_size=rule.block_size, symmetric=symmetric).num_bytes
    assert recipe.average_bits(sizes) == pytest.approx(8 * stored / (16 * columns))


def test_average_bits_counts_the_scales() -> None:
    assert Recipe.named("int8", group_size=64).average_bits({"head": (3, 128)}) == 8.25
    assert Recipe.named("int8", group_size=32).average_bits({"head": (3, 128)}) == 8.5
    assert Recipe.named("fp32").average_bits({"head": (3, 100)}) == 32
    with pytest.raises(ValueError, match="no tensors"):
        Recipe.named("int8").average_bits({})


@pytest.mark.parametrize("block_size", [8, 24, 512, 1 << 20])
def test_a_block_without_a_kernel_is_refused(block_size: int) -> None:
    with pytest.raises(ValueError, match="block size"):
        TensorRecipe(bits=4, block_size=block_size)

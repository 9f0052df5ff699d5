"""Fewer bytes per weight: arrays in, arrays out; knows no graph."""

from __future__ import annotations

from skipstone.quant.blockwise import METHODS, QuantizedMatrix, quantize
from skipstone.quant.packing import pack, unpack
from skipstone.quant.recipe import DEFAULT_GROUP_SIZE, GROUP_SIZES, PRECISIONS, Recipe, TensorRecipe
from skipstone.quant.rows import Matrix, can_stack, scale, stack, take_rows

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "GROUP_SIZES",
    "METHODS",
    "PRECISIONS",
    "Matrix",
    "QuantizedMatrix",
    "Recipe",
    "TensorRecipe",
    "can_stack",
    "pack",
    "quantize",
    "scale",
    "stack",
    "take_rows",
    "unpack",
]

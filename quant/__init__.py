"""Fewer bytes per weight: arrays in, arrays out; knows no graph."""

from __future__ import annotations

from skipstone.quant.blockwise import METHODS, QuantizedMatrix, quantize
from skipstone.quant.packing import pack, unpack
from skipstone.quant.recipe import DEFAULT_GROUP_SIZE, GROUP_SIZES, PRECISIONS, Recipe, TensorRecipe

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "GROUP_SIZES",
    "METHODS",
    "PRECISIONS",
    "QuantizedMatrix",
    "Recipe",
    "TensorRecipe",
    "pack",
    "quantize",
    "unpack",
]

"""Fewer bytes per weight: arrays in, arrays out; knows no graph."""

from __future__ import annotations

from skipstone.quant.affine import AffineRows, without_offsets
from skipstone.quant.allotment import Option, allot
from skipstone.quant.blockwise import QuantizedMatrix, quantize
from skipstone.quant.column_blocks import take_columns
from skipstone.quant.gptq import Curvature, gptq, hessian_error
from skipstone.quant.half_scales import half_exponent
from skipstone.quant.model_changes import RotationRecipe, ScaleRecipe
from skipstone.quant.offsets import as_columns
from skipstone.quant.outliers import beside_columns, beside_columns_by_inputs, largest_columns
from skipstone.quant.packing import pack, unpack
from skipstone.quant.recipe import Recipe
from skipstone.quant.rotation import Turn
from skipstone.quant.row_integers import whole_rows
from skipstone.quant.rows import Matrix, refine, scale, stack, take_rows
from skipstone.quant.scaling import awq_scales, hessian_root, smooth_scales
from skipstone.quant.tensor_recipe import TensorRecipe

__all__ = [
    "AffineRows",
    "Curvature",
    "Matrix",
    "Option",
    "QuantizedMatrix",
    "Recipe",
    "RotationRecipe",
    "ScaleRecipe",
    "TensorRecipe",
    "Turn",
    "allot",
    "as_columns",
    "awq_scales",
    "beside_columns",
    "beside_columns_by_inputs",
    "gptq",
    "half_exponent",
    "hessian_error",
    "hessian_root",
    "largest_columns",
    "pack",
    "quantize",
    "refine",
    "scale",
    "smooth_scales",
    "stack",
    "take_columns",
    "take_rows",
    "unpack",
    "whole_rows",
    "without_offsets",
]

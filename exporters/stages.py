"""Where a model is cut into stages, and the graph of each stage and of the head."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import onnx_ir as ir

from skipstone.errors import ConfigError
from skipstone.exporters.altup_blocks import AltUpBlocks
from skipstone.exporters.architecture import Architecture
from skipstone.exporters.attention import StepInputs
from skipstone.exporters.blocks import Blocks, Residual
from skipstone.exporters.graph import FLOAT, GraphPen
from skipstone.exporters.heads import kernel_head_size
from skipstone.exporters.model_weights import ModelWeights
from skipstone.exporters.weights import WeightFile
from skipstone.quant import Recipe
from skipstone.runtime.manifest import StageEntry

__all__ = ["build_head", "build_stage", "parse_cuts", "parse_exits", "plan_stages"]

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


def parse_exits(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of layers after which the model may stop: `none`, `auto` (quarters) or numbers like `4,8`."""
    if text == "none":
        return ()
    if text == "auto":
        return tuple(sorted({num_layers * quarter // 4 for quarter in (1, 2, 3)} - {0, num_layers}))
    return _layer_numbers(text, num_layers, option="--exits", word="auto", place="an exit")


def parse_cuts(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of layers after which stages end, exit or not: `none`, `each` or numbers like `3,5`."""
    if text == "none":
        return ()
    if text == "each":
        return tuple(range(1, num_layers))
    return _layer_numbers(text, num_layers, option="--cuts", word="each", place="a cut")


def _layer_numbers(text: str, num_layers: int, *, option: str, word: str, place: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(f"{option} takes none, {word} or layer numbers like 4,8, not '{text}'") from error
    if num_layers == 1:
        raise ConfigError(f"{option} {text}: this model has one layer, so there is no place for {place}")
    if not 0 < found[0] <= found[-1] < num_layers:
        raise ConfigError(f"{option} {text}: {place} lies between layer 1 and {num_layers - 1} of this model")
    return found


def plan_stages(num_layers: int, exits: Sequence[int], cuts: Sequence[int] = ()) -> tuple[StageEntry, ...]:
    """Return the stages that end at each exit and each cut; without any the only one goes all the way to the logits."""
    borders = [0, *sorted({*exits, *cuts}), num_layers]
    return tuple(
        StageEntry(
            file=f"stage-{index:02}.onnx",
            first_layer=first,
            end_layer=end,
            embeds=index == 0,
            ends_in_logits=len(borders) == 2,
        )
        for index, (first, end) in enumerate(itertools.pairwise(borders))
    )


def build_stage(
    stage: StageEntry, architecture: Architecture, weights: ModelWeights, recipe: Recipe, file: WeightFile
) -> ir.Model:
    """Return the graph of one stage, its weights written to `file`.

    Inputs: token_ids and token_weights [B, T, W], or hidden [B, T, E]; position_ids [B, T]; seqlens_k [B], the last
    position; total_sequence_length, S; attention_bias [1, 1, T, S]; past_key_i, past_value_i [B, K, C, D]; rows [R]
    where logits are made. Outputs: hidden [B, T, E] or logits [R, V]; present_key_i, present_value_i.
    """
    pen = GraphPen(stage.file.removesuffix(".onnx"), file)
    blocks = (Blocks if architecture.altup is None else AltUpBlocks)(pen, architecture, weights, recipe)
    d = architecture.dimensions
    if stage.embeds:
        token_ids = pen.input("token_ids", INT64, ("B", "T", "W"))
        token_weights = pen.input("token_weights", FLOAT, ("B", "T", "W"))
        step = _step_inputs(pen, architecture, stage)
        residual = blocks.embed(token_ids, token_weights, step.position_ids)
    else:
        residual = Residual(pen.input("hidden", FLOAT, ("B", "T", d.hidden_size)))
        step = _step_inputs(pen, architecture, stage)
    for layer in range(stage.first_layer, stage.end_layer):
        residual = blocks.layer(residual, layer, step)
    hidden = blocks.add_up(residual)
    if stage.ends_in_logits:
        logits = blocks.head(hidden, pen.input("rows", INT64, ("R",)))
        pen.output(logits, "logits", FLOAT, ("R", d.vocab_size))
    else:
        pen.output(hidden, "hidden_out", FLOAT, ("B", "T", d.hidden_size))
    return pen.model()


def build_head(
    architecture: Architecture, weights: ModelWeights, recipe: Recipe, file: WeightFile, *, by_row: bool = False
) -> ir.Model:
    """Return the graph from the end of any stage to logits: hidden [B, T, E] and rows [R] in, logits [R, V] out.

    The matrix is stored `by_row` where a draft head reads it too.
    """
    pen = GraphPen("head", file)
    d = architecture.dimensions
    hidden = pen.input("hidden", FLOAT, ("B", "T", d.hidden_size))
    logits = Blocks(pen, architecture, weights, recipe).head(hidden, pen.input("rows", INT64, ("R",)), by_row=by_row)
    pen.output(logits, "logits", FLOAT, ("R", d.vocab_size))
    return pen.model()


def _step_inputs(pen: GraphPen, architecture: Architecture, stage: StageEntry) -> StepInputs:
    layers = range(stage.first_layer, stage.end_layer)
    return StepInputs(
        position_ids=pen.input("position_ids", INT64, ("B", "T")),
        last_positions=pen.input("seqlens_k", INT32, ("B",)),
        total_length=pen.input("total_sequence_length", INT32, ()),
        attention_bias=pen.input("attention_bias", FLOAT, (1, 1, "T", "S")),
        turns={layer: _turns(pen, architecture, layer) for layer in layers},
    )


def _turns(pen: GraphPen, architecture: Architecture, layer: int) -> tuple[ir.Value, ir.Value] | None:
    """Return cosines and sines of one layer; layers with the same rotary share them."""
    rotary = architecture.rotaries[layer]
    if rotary is None:
        return None
    name = f"rotary.{architecture.rotaries.index(rotary)}"
    width = kernel_head_size(architecture.dimensions.head_size) // 2
    tables = functools.cache(lambda: rotary.tables(architecture.context_length, width=width))
    return pen.weight(f"{name}.cosines", lambda: tables()[0]), pen.weight(f"{name}.sines", lambda: tables()[1])

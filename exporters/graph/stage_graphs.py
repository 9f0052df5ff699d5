"""The graphs of a bundle: one for each stage, the head, the exits' adapters and the head for drafts.

One more is for calibrations: the embedding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from skipstone.exporters.checkpoints import EPSILON, ExitAdapter
from skipstone.exporters.families import Architecture
from skipstone.exporters.graph.altup_blocks import AltUpBlocks
from skipstone.exporters.graph.blocks import Blocks, Residual
from skipstone.exporters.graph.head_channels import kernel_head_size
from skipstone.exporters.graph.kernels import Kernels, OrtKernels
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.rings import ring_windows
from skipstone.exporters.graph.step_inputs import StepInputs
from skipstone.exporters.graph.variant import PLAIN, GraphVariant
from skipstone.exporters.graph.weight_file import WeightFile
from skipstone.quant import Recipe
from skipstone.runtime.bundle import StageEntry, variant_file

__all__ = [
    "build_draft_head",
    "build_embedding",
    "build_exit",
    "build_head",
    "build_stage",
    "turns_of",
    "write_exit",
    "write_variant",
]

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


def build_exit(layers: int, adapter: ExitAdapter, file: WeightFile, *, target: type[Kernels] = OrtKernels) -> ir.Model:
    """Return the graph from hidden [B, T, E] after so many layers to hidden_out [B, T, E], which the head reads."""
    kernels = target(GraphPen(f"exit-{layers:02}", file))
    return write_exit(kernels, layers, adapter, ("B", "T", len(adapter.gain)))


def write_exit(kernels: Kernels, layers: int, adapter: ExitAdapter, shape: tuple[int | str, ...]) -> ir.Model:
    """As `build_exit`, for hidden states of some shape."""
    name, pen = f"exits.{layers}", kernels.pen
    hidden = pen.input("hidden", pen.numbers, shape)
    gain = pen.weight(f"{name}.gain", lambda: adapter.gain)
    down = pen.weight(f"{name}.down.transposed", lambda: adapter.down.T)
    up = pen.weight(f"{name}.up.transposed", lambda: adapter.up.T)
    normed = kernels.norm("rms", hidden, gain, epsilon=EPSILON)
    update = pen.op("MatMul", pen.op("MatMul", normed, down), up)
    pen.output(pen.op("Add", normed, update), "hidden_out", pen.numbers, shape)
    return kernels.model()


def build_stage(
    stage: StageEntry,
    architecture: Architecture,
    weights: ModelWeights,
    recipe: Recipe,
    file: WeightFile,
    *,
    target: type[Kernels] = OrtKernels,
    variant: GraphVariant = PLAIN,
) -> ir.Model:
    """Return the graph of one stage, or of a variant of it, its weights written to `file`.

    Inputs: token_ids and token_weights [B, T, W], or hidden [B, T, E]; position_ids [B, A]; seqlens_k [B], the last
    position; total_sequence_length, S; seqlens_k_w and total_length_w, the same counted in the rows that layers with a
    window of w hold (see `RingLayout`); attention_bias [1, 1, A, S]; attention_rows [A] and token_rows [T] (see
    `StepInputs`); cosines_n and sines_n [P, D / 2] of each kind of rotary, P at least S; past_key_i, past_value_i
    [B, K, C, D]; rows [R] where logits are made; active_experts [layers], shared ones with them, in the sparse variant
    of a carved model. Outputs: hidden [B, T, E] or logits [R, V]; present_key_i, present_value_i. A variant that only
    reads has no bias, and its last stage ends in the caches.
    """
    pen = GraphPen(stage.file.removesuffix(".onnx"), file)
    kernels = (variant.kernels or target)(pen)
    blocks = (Blocks if architecture.altup is None else AltUpBlocks)(kernels, architecture, weights, recipe, variant)
    d, layers = architecture.dimensions, range(stage.first_layer, stage.end_layer)
    if stage.embeds:
        token_ids = pen.input("token_ids", INT64, ("B", "T", "W"))
        token_weights = pen.input("token_weights", pen.numbers, ("B", "T", "W"))
        step = _step_inputs(kernels, architecture, layers, variant)
        residual = blocks.embed(token_ids, token_weights, step)
    else:
        residual = Residual(pen.input("hidden", pen.numbers, ("B", "T", d.hidden_size)))
        step = _step_inputs(kernels, architecture, layers, variant)
    reads_to = architecture.cached_layers[-1] if variant.only_reads and layers.stop == d.num_layers else None
    for layer in layers:
        if layer == reads_to:  # what follows would be for logits
            blocks.write_cache(residual, layer, step)
            return kernels.model()
        residual = blocks.layer(residual, layer, step)
    hidden = blocks.add_up(residual)
    if stage.ends_in_logits:
        logits = blocks.head(hidden, pen.input("rows", INT64, ("R",)))
        pen.float_output(logits, "logits", ("R", d.vocab_size))
    else:
        pen.output(hidden, "hidden_out", pen.numbers, ("B", "T", d.hidden_size))
    return kernels.model()


def write_variant(
    folder: Path,
    stages: Sequence[StageEntry],
    architecture: Architecture,
    weights: ModelWeights,
    recipe: Recipe,
    file: WeightFile,
    variant: GraphVariant,
    *,
    target: type[Kernels] = OrtKernels,
) -> dict[str, str]:
    """Write the graphs of a variant to a folder that has the plain ones, all weights to one file.

    Returns the files of those that differ, by the plain graphs' files; of the others none is written.
    """
    written = {}
    for stage in stages:
        graph = build_stage(stage, architecture, weights, recipe, file, target=target, variant=variant)
        data, name = ir.to_proto(graph).SerializeToString(), variant_file(stage.file, variant.name)
        if data != (folder / stage.file).read_bytes():
            (folder / name).write_bytes(data)
            written[stage.file] = name
    return written


def build_embedding(architecture: Architecture, weights: ModelWeights, recipe: Recipe, file: WeightFile) -> ir.Model:
    """Return the graph from token_ids and token_weights [B, T, W], as of a stage, to hidden_out [B, T, E]."""
    pen = GraphPen("embedding", file)
    kernels = OrtKernels(pen)
    token_ids = pen.input("token_ids", INT64, ("B", "T", "W"))
    token_weights = pen.input("token_weights", pen.numbers, ("B", "T", "W"))
    step = _step_inputs(kernels, architecture, range(0))
    blocks = Blocks(kernels, architecture, weights, recipe)
    hidden = blocks.add_up(blocks.embed(token_ids, token_weights, step))
    pen.output(hidden, "hidden_out", pen.numbers, ("B", "T", architecture.dimensions.hidden_size))
    return kernels.model()


def build_head(
    architecture: Architecture,
    weights: ModelWeights,
    recipe: Recipe,
    file: WeightFile,
    *,
    by_row: bool = False,
    target: type[Kernels] = OrtKernels,
) -> ir.Model:
    """Return the graph from the end of any stage to logits: hidden [B, T, E] and rows [R] in, logits [R, V] out.

    The matrix is stored `by_row` where a draft head reads it too.
    """
    pen = GraphPen("head", file)
    kernels = target(pen)
    d = architecture.dimensions
    hidden = pen.input("hidden", pen.numbers, ("B", "T", d.hidden_size))
    logits = Blocks(kernels, architecture, weights, recipe).head(
        hidden, pen.input("rows", INT64, ("R",)), by_row=by_row
    )
    pen.float_output(logits, "logits", ("R", d.vocab_size))
    return kernels.model()


def _step_inputs(
    kernels: Kernels, architecture: Architecture, layers: range, variant: GraphVariant = PLAIN
) -> StepInputs:
    # Over integers a single row of attention has the bits that it has among several.
    pen, has_rows = kernels.pen, kernels.has_attention_rows and variant.cache_scales is None
    num_rows = "A" if has_rows else "T"
    return StepInputs(
        position_ids=pen.input("position_ids", INT64, ("B", num_rows)),
        last_positions=pen.input("seqlens_k", INT32, ("B",)),
        total_length=pen.input("total_sequence_length", INT32, ()),
        attention_bias=pen.input("attention_bias", pen.numbers, (1, 1, num_rows, "S"))
        if not variant.only_reads
        else None,
        attention_rows=pen.input("attention_rows", INT64, ("A",)) if has_rows else None,
        token_rows=pen.input("token_rows", INT64, ("T",)) if has_rows else None,
        turns=turns_of(pen, architecture, layers),
        rings=_rings(kernels, architecture, layers),
    )


def _rings(kernels: Kernels, architecture: Architecture, layers: range) -> dict[int, tuple[ir.Value, ir.Value]]:
    """Return the last positions and the total length by layer; layers with the same window share them."""
    windows = ring_windows(architecture, layers) if kernels.has_rings else {}
    pen = kernels.pen
    inputs = {
        window: (pen.input(f"seqlens_k_{window}", INT32, ("B",)), pen.input(f"total_length_{window}", INT32, ()))
        for window in sorted({*windows.values()})
    }
    return {layer: inputs[window] for layer, window in windows.items()}


def turns_of(
    pen: GraphPen, architecture: Architecture, layers: range, rows: int | str = "P"
) -> dict[int, tuple[ir.Value, ir.Value] | None]:
    """Return cosines and sines by layer; layers that turn alike share them, numbered as in the manifest."""
    shape, kinds = (rows, kernel_head_size(architecture.dimensions.head_size) // 2), architecture.rotary_kinds
    rotaries = {layer: architecture.rotaries[layer] for layer in layers}
    tables = [
        (pen.input(f"cosines_{number}", pen.numbers, shape), pen.input(f"sines_{number}", pen.numbers, shape))
        if kind in rotaries.values()
        else None
        for number, kind in enumerate(kinds)
    ]
    return {layer: None if rotary is None else tables[kinds.index(rotary)] for layer, rotary in rotaries.items()}


def build_draft_head(
    architecture: Architecture,
    weights: ModelWeights,
    recipe: Recipe,
    file: WeightFile,
    num_first: int,
    *,
    target: type[Kernels] = OrtKernels,
) -> ir.Model:
    """Return the graph from the end of any stage to some logits; it reads the head's bytes and adds none to `file`.

    Inputs: hidden [B, T, E], rows [R], extra_ids [P]. Outputs: logits [R, `num_first`] of the first tokens of the
    vocabulary, extra_logits [R, P] of those with the ids. The head must be stored by row; see `build_head`.
    """
    pen = GraphPen("draft-head", file)
    kernels = target(pen)
    hidden = pen.input("hidden", pen.numbers, ("B", "T", architecture.dimensions.hidden_size))
    rows, extra_ids = pen.input("rows", INT64, ("R",)), pen.input("extra_ids", INT64, ("P",))
    logits, extra = Blocks(kernels, architecture, weights, recipe).draft_head(hidden, rows, extra_ids, num_first)
    pen.float_output(logits, "logits", ("R", num_first))
    pen.float_output(extra, "extra_logits", ("R", "P"))
    return kernels.model()

"""The graphs of fixed shapes: one for each count of rows and length of the cache, over the weights of the others.

Shapes: T rows of a call, C rows of the cache, W = 1 token in a position, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from skipstone.exporters.checkpoints import ExitAdapter
from skipstone.exporters.families import Architecture
from skipstone.exporters.graph.altup_blocks import AltUpBlocks
from skipstone.exporters.graph.blocks import Blocks, Residual
from skipstone.exporters.graph.kernels import Kernels
from skipstone.exporters.graph.model_weights import ModelWeights
from skipstone.exporters.graph.pen import GraphPen
from skipstone.exporters.graph.stage_graphs import turns_of, write_exit
from skipstone.exporters.graph.step_inputs import StepInputs
from skipstone.exporters.graph.weight_file import WeightFile
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Buckets, StageEntry, variant_file

__all__ = ["BucketGraphs"]

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketGraphs:
    """Writes the graphs of all buckets of one model; `target` gives the operators."""

    target: type[Kernels]
    architecture: Architecture
    weights: ModelWeights
    recipe: Recipe
    file: WeightFile

    def write(
        self,
        folder: Path,
        buckets: Buckets,
        stages: Sequence[StageEntry],
        head: str | None,
        adapters: Mapping[str, tuple[int, ExitAdapter]],
    ) -> dict[str, dict[str, str]]:
        """Write the graphs of every bucket; return their files, by the kind of the variant and the plain graph's file.

        `head` and the names of `adapters`, each after so many layers, are plain graphs' files. Those read no cache, so
        buckets with as many rows share theirs.
        """
        variants: dict[str, dict[str, str]] = {buckets.kind(*sizes): {} for sizes in _pairs(buckets)}
        for rows, context in _pairs(buckets):
            kind = buckets.kind(rows, context)
            for stage in stages:
                variants[kind][stage.file] = name = variant_file(stage.file, kind)
                ir.save(self.stage(stage, rows, context), folder / name)
        for rows in buckets.rows:
            made = {} if head is None else {head: self.head(rows)}
            made |= {name: self.exit(*adapter, rows) for name, adapter in adapters.items()}
            for plain, graph in made.items():
                name = variant_file(plain, f"rows-{rows}")
                ir.save(graph, folder / name)
                for context in buckets.contexts:
                    variants[buckets.kind(rows, context)][plain] = name
        return variants

    def stage(self, stage: StageEntry, rows: int, context: int) -> ir.Model:
        """Return the graph of a stage: as `build_stage`, with inputs and outputs as `BucketKernels` has them.

        There are no weights of blends and no numbers of rows: logits are given for all T.
        """
        pen, a = GraphPen(stage.file.removesuffix(".onnx"), self.file), self.architecture
        kernels = self.target.for_bucket(pen, rows, context)
        blocks = (Blocks if a.altup is None else AltUpBlocks)(kernels, a, self.weights, self.recipe)
        layers, shape = range(stage.first_layer, stage.end_layer), (1, rows, a.dimensions.hidden_size)
        entry = pen.input("token_ids", INT64, (1, rows, 1)) if stage.embeds else pen.input("hidden", pen.numbers, shape)
        step = self._step(pen, layers, rows)
        residual = blocks.embed(entry, None, step) if stage.embeds else Residual(entry)
        for layer in layers:
            residual = blocks.layer(residual, layer, step)
        hidden = blocks.add_up(residual)
        if stage.ends_in_logits:
            pen.float_output(blocks.head(hidden, None), "logits", (rows, a.dimensions.vocab_size))
        else:
            pen.output(hidden, "hidden_out", pen.numbers, shape)
        return kernels.model()

    def head(self, rows: int) -> ir.Model:
        """Return the graph from hidden [1, T, E] to logits [T, V]."""
        pen, d = GraphPen("head", self.file), self.architecture.dimensions
        kernels = self.target.for_bucket(pen, rows, 1)
        hidden = pen.input("hidden", pen.numbers, (1, rows, d.hidden_size))
        logits = Blocks(kernels, self.architecture, self.weights, self.recipe).head(hidden, None)
        pen.float_output(logits, "logits", (rows, d.vocab_size))
        return kernels.model()

    def exit(self, layers: int, adapter: ExitAdapter, rows: int) -> ir.Model:
        """Return the graph from hidden [1, T, E] after so many layers to what the head reads."""
        pen = GraphPen(f"exit-{layers:02}", self.file)
        return write_exit(self.target.for_bucket(pen, rows, 1), layers, adapter, (1, rows, len(adapter.gain)))

    def _step(self, pen: GraphPen, layers: range, rows: int) -> StepInputs:
        """Return the inputs of layers; of lengths none is read, as biases say who sees whom."""
        return StepInputs(
            position_ids=pen.input("position_ids", INT64, (1, rows)),
            last_positions=pen.input("seqlens_k", INT32, (1,)),
            total_length=pen.input("total_sequence_length", INT32, ()),
            attention_bias=None,
            attention_rows=None,
            token_rows=None,
            turns=turns_of(pen, self.architecture, layers, rows),
            rings={},
        )


def _pairs(buckets: Buckets) -> list[tuple[int, int]]:
    return [(rows, context) for rows in buckets.rows for context in buckets.contexts]

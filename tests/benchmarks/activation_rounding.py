"""Print what it costs that kernels round activations to 8 bits in blocks: float32 weights, rounded inputs of matrices.

    python tests/benchmarks/activation_rounding.py CHECKPOINT TEXT [--windows 1] [--blocks 32 128] [--kinds]
        [--forms stored gains scales rotated]

CHECKPOINT is a folder or a file, TEXT a file of text or of chats. One layer at a time has rounded inputs (with --kinds
one kind of matrix of one layer), then one kind of all layers, then all. KL is against the same numbers unrounded. The
forms are the same model with the gains of norms folded in as `int4` does without a text, with the scales that a
calibration on the text of the package folds in, and rotated (R1 and R2).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skipstone.bundled import BUNDLED
from skipstone.calibrate import Documents, LayerGraphs, Windows, batches
from skipstone.calibrate.scales import with_scales
from skipstone.devices import open_device
from skipstone.evaluate import divergences, log_softmax
from skipstone.exporters import ExportOptions, ExportPlan, plan_export
from skipstone.exporters.graph import ModelWeights
from skipstone.exporters.transforms import Rotation, apply
from skipstone.quant import Recipe

Floats = NDArray[np.float32]
KINDS = ("qkv", "o", "gate_up", "down")
FORMS = ("stored", "gains", "scales", "rotated")
EVERY = 2  # of so many tokens one is judged


@dataclass(frozen=True)
class Variant:
    """What is rounded: some kinds of matrices in one layer, or in all where `layer` is None, in blocks of one size."""

    label: str
    block: int
    kinds: tuple[str, ...]
    layer: int | None = None

    def rounds(self, kind: str, layer: int, block: int) -> bool:
        return block == self.block and kind in self.kinds and self.layer in (None, layer)


def variants(num_layers: int, blocks: Sequence[int], *, by_kind: bool) -> list[Variant]:
    """Return all that is tried, what begins in early layers first."""
    tried = []
    for block in blocks:
        tried += [Variant("all", block, (*KINDS, "head")), *(Variant(kind, block, (kind,)) for kind in KINDS)]
        for layer in range(num_layers):
            sets = [(kind,) for kind in KINDS] if by_kind else [KINDS]
            tried += [Variant(f"layer {layer} {'+'.join(kinds)}", block, kinds, layer) for kinds in sets]
    return tried


def form_of(plan: ExportPlan, form: str, folder: Path) -> ExportPlan:
    """Return the plan of the same model in another form."""
    if form == "scales":
        windows = Windows.of(plan, Documents.read("auto"))
        coarse = replace(plan, recipe=Recipe.named("int4").calibrated())
        return with_scales(coarse, LayerGraphs(coarse, open_device(), folder), windows.calibrate, lambda share: None)
    if form == "gains":
        return replace(plan, recipe=Recipe.named("int4")).with_gains()
    changes = [Rotation()] if form == "rotated" else []
    architecture, tensors, _ = apply(changes, plan.architecture, plan.checkpoint.tensors)
    return replace(plan, architecture=architecture, checkpoint=replace(plan.checkpoint, tensors=tensors))


def add_rounding(model: ir.Model, blocks: Sequence[int]) -> None:
    """Give each product inputs round_KIND_BLOCK [B, 1, 1]: 1 where what it reads is rounded in such blocks."""
    graph, known = model.graph, dict[tuple[ir.Value, str], ir.Value]()
    for node in [*graph]:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        x, matrix = node.inputs[:2]
        assert x is not None and matrix is not None and matrix.name is not None
        if matrix.const_value is None or not matrix.name.startswith("layers."):
            continue
        part = matrix.name.split(".")[2]
        kind = "gate_up" if part == "up" else part
        if (x, kind) not in known:
            known[x, kind] = rounded_input(graph, node, x, kind, matrix.const_value.shape[0], blocks)
        node.replace_input_with(0, known[x, kind])


def rounded_input(
    graph: ir.Graph, before: ir.Node, x: ir.Value, kind: str, width: int, blocks: Sequence[int]
) -> ir.Value:
    """Insert x + gate * (rounded x - x) for each size of block; blocks of zeros stay as they are."""

    def op(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes, num_outputs=1)
        node.outputs[0].name = f"rounding_{len(graph)}"
        graph.insert_before(before, node)
        return node.outputs[0]

    def constant(values: object, dtype: type) -> ir.Value:
        node = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(values, dtype))}, num_outputs=1)
        node.outputs[0].name = f"rounding_{len(graph)}"
        graph.insert_before(before, node)
        return node.outputs[0]

    total = x
    for block in blocks:
        gate = ir.val(f"round_{kind}_{block}", ir.DataType.FLOAT, ["B", 1, 1])
        graph.inputs.append(gate)
        padded = op("Pad", x, constant([0, 0, 0, 0, 0, -width % block], np.int64))
        split = op("Reshape", padded, constant([0, 0, -1, block], np.int64))
        largest = op("ReduceMax", op("Abs", split), constant([-1], np.int64), keepdims=1)
        step = op("Max", op("Div", largest, constant(127, np.float32)), constant(1e-30, np.float32))
        joined = op("Reshape", op("Mul", op("Round", op("Div", split, step)), step), constant([0, 0, -1], np.int64))
        ends = [constant([place], np.int64) for place in (0, width, 2)]
        total = op("Add", total, op("Mul", gate, op("Sub", op("Slice", joined, *ends), x)))
    return total


def rounded_rows(x: Floats, block: int) -> Floats:
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)])
    split = padded.reshape(*x.shape[:-1], -1, block)
    step = np.maximum(np.abs(split).max(axis=-1, keepdims=True) / 127, 1e-30)
    rounded: Floats = (np.round(split / step) * step).reshape(padded.shape)[..., : x.shape[-1]]
    return rounded


def measure(
    plan: ExportPlan, token_ids: NDArray[np.int64], tried: Sequence[Variant], blocks: Sequence[int], folder: Path
) -> Iterator[tuple[Variant, float]]:
    """Yield each variant with its KL. Streams of variants leave the original where they differ, and go on beside it."""
    graphs, num_windows = LayerGraphs(plan, open_device(), folder), len(token_ids)
    with graphs.embedding() as graph:
        original = graph.embed(token_ids)
    streams, running = original, list[Variant]()  # the original's windows first, then those of each that runs
    waiting = list(tried)
    for layer in range(graphs.num_layers):
        new = [variant for variant in waiting if variant.layer in (None, layer)]
        waiting = [variant for variant in waiting if variant not in new]
        streams = np.concatenate([streams, *([streams[:num_windows]] * len(new))])
        running += new
        with graphs.layer(layer, change=lambda model: add_rounding(model, blocks)) as graph:
            gates = {
                f"round_{kind}_{block}": np.repeat(
                    np.array([0.0, *(float(variant.rounds(kind, layer, block)) for variant in running)], np.float32),
                    num_windows,
                )[:, None, None]
                for kind in KINDS
                for block in blocks
            }
            streams = np.concatenate(
                [
                    graph.states(streams[batch], {name: gate[batch] for name, gate in gates.items()})
                    for batch in batches(streams)
                ]
            )
    yield from judged(Head(plan, graphs), np.split(streams, len(running) + 1), running, blocks)


class Head:
    """Makes log probabilities of states; the rows that the head multiplies may be rounded."""

    def __init__(self, plan: ExportPlan, graphs: LayerGraphs) -> None:
        weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
        matrix = weights.head()
        assert isinstance(matrix, np.ndarray), "head in numbers"
        self._matrix, self._cap, self._graphs = matrix.T, plan.architecture.logit_cap, graphs

    def rows(self, states: Floats) -> Floats:
        """Return what the head multiplies, of some of the states."""
        with self._graphs.head(tap=lambda name: name == "head") as graph:
            (rows,) = graph.inputs(states[:, ::EVERY]).values()
        return rows

    def log_probs(self, rows: Floats) -> NDArray[np.float64]:
        logits = rows @ self._matrix
        return log_softmax(logits if self._cap is None else np.tanh(logits) * self._cap)


def judged(
    head: Head, streams: Sequence[Floats], running: Sequence[Variant], blocks: Sequence[int]
) -> Iterator[tuple[Variant, float]]:
    """Yield each variant with its KL, and the head alone."""
    plain = head.rows(streams[0])
    expected = head.log_probs(plain)
    for block in blocks:
        yield Variant("head", block, ("head",)), kl(expected, head.log_probs(rounded_rows(plain, block)))
    for variant, states in zip(running, streams[1:], strict=True):
        rows = head.rows(states)
        if "head" in variant.kinds:
            rows = rounded_rows(rows, variant.block)
        yield variant, kl(expected, head.log_probs(rows))


def kl(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(divergences(expected, found).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=1, help="windows of 256 tokens")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--kinds", action="store_true", help="one kind of matrix of one layer at a time")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    options = parser.parse_args()
    source = BUNDLED.get(options.checkpoint, options.checkpoint)
    plan = plan_export(source, ExportOptions(recipe=Recipe.named("fp32"), keep_integers=False))
    token_ids = Windows.of(plan, Documents.read(options.text)).calibrate[: options.windows]
    tried = variants(plan.architecture.dimensions.num_layers, options.blocks, by_kind=options.kinds)
    print(f"{token_ids.size} tokens, one of {EVERY} judged; KL x 1e5\n")
    print("| form | block | rounded | KL |\n|---|---|---|---|")
    for form in options.forms:
        with tempfile.TemporaryDirectory() as folder:
            changed = form_of(plan, form, Path(folder))
            for variant, cost in measure(changed, token_ids, tried, options.blocks, Path(folder)):
                print(f"| {form} | {variant.block} | {variant.label} | {1e5 * cost:.2f} |", flush=True)


if __name__ == "__main__":
    main()

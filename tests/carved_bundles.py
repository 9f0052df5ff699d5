"""Bundles whose FFNs run some of their experts: made by hand from any bundle, with a router that sees all.

An expert is a row of neighbouring neurons, and those count whose activations are largest together: what no router
knows beforehand. So with all experts active the graphs give what the plain ones do. None is really shared.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from skipstone.runtime.bundle import MANIFEST_NAME, ExpertLevel, ExpertsEntry, Manifest, variant_file, write_manifest

NUM_EXPERTS = 4


def carved_by_hand(
    bundle: Path, target: Path, *, levels: Mapping[str, ExpertLevel], num_experts: int = NUM_EXPERTS
) -> Path:
    """Copy a bundle in fp32 to `target`, with graphs that run some experts of each layer."""
    shutil.copytree(bundle, target)
    manifest = Manifest.from_json((target / MANIFEST_NAME).read_text())
    (target / MANIFEST_NAME).unlink()
    files = {}
    for stage in manifest.stages:
        model = ir.load(target / stage.file)
        _carve(model, range(stage.first_layer, stage.end_layer), manifest.dimensions.num_layers, num_experts)
        files[stage.file] = variant_file(stage.file, "sparse")
        ir.save(model, target / files[stage.file])
    experts = ExpertsEntry(num_experts=num_experts, num_shared=1, levels=levels, default=next(iter(levels)))
    write_manifest(
        target, lambda entries: replace(manifest, files=entries, variants={"sparse": files}, experts=experts)
    )
    return target


def _carve(model: ir.Model, layers: range, num_layers: int, num_experts: int) -> None:
    graph = model.graph
    active = ir.val("active_experts", ir.DataType.INT64, [num_layers])
    graph.inputs.append(active)
    downs = [node for node in graph if node.op_type in ("MatMul", "Gemm") and ".down" in (node.inputs[1].name or "")]
    assert len(downs) == len(layers), "each layer has one FFN"
    for layer, down in zip(layers, downs, strict=True):
        pen = _Pen(graph, down, f"carved.{layer}")
        x = down.inputs[0]
        apart = pen.op("Reshape", x, pen.integers(0, 0, num_experts, -1))
        scores = pen.op("ReduceSum", pen.op("Abs", apart), pen.integers(-1), keepdims=0)
        count = pen.op("Gather", active, pen.integers(layer), axis=0)
        choice = pen.op("TopK", scores, count, num_outputs=2)
        pair = pen.constant(np.array([0, 1], np.float32))
        chosen = pen.op("OneHot", choice, pen.integers(num_experts), pair, axis=-1)
        mask = pen.op("ReduceSum", chosen, pen.integers(2), keepdims=0)
        kept = pen.op("Mul", apart, pen.op("Unsqueeze", mask, pen.integers(-1)))
        down.replace_input_with(0, pen.op("Reshape", kept, pen.op("Shape", x)))


class _Pen:
    """Writes nodes before another one."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph, self._before, self._name, self._count = graph, before, name, 0

    def op(self, kind: str, *inputs: ir.Value | None, num_outputs: int = 1, **attributes: int) -> ir.Value:
        """Return the last output."""
        self._count += 1
        node = ir.node(kind, inputs, attributes, num_outputs=num_outputs, name=f"{self._name}.{self._count}")
        for number, output in enumerate(node.outputs):
            output.name = f"{self._name}.{self._count}.{number}"
        self._graph.insert_before(self._before, node)
        return node.outputs[-1]

    def constant(self, array: np.ndarray) -> ir.Value:
        self._count += 1
        value = ir.val(f"{self._name}.{self._count}", const_value=ir.tensor(array, name=f"{self._name}.{self._count}"))
        self._graph.register_initializer(value)
        return value

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

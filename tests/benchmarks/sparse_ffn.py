"""A compiled sparse FFN beside the dense one: whether thresholds on gates (CATS, CHESS) could pay on this processor.

python tests/benchmarks/sparse_ffn.py [ROUNDS]       wants gcc and a processor with AVX-512 VNNI

The operator of sparse_ffn.c reads the rows of up and of down whose gate is above its threshold; the gate itself is
onnxruntime's MatMulNBits in all rows. Layers are enough to be out of the caches. Models take turns; shown are medians
and the best of all rounds. Of one thread it is the processor's time, which other work does not lengthen.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SHAPES = {"336 M": (1024, 2816, 24), "SmolLM2": (576, 1536, 60)}  # hidden, inner, layers
SPARSITIES = (0.25, 0.5, 0.7, 0.9)
Stored: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
SOURCE = Path(__file__).with_suffix(".c")


def packed(matrix: np.ndarray, block: int) -> Stored:
    """Return integers 0..15 around 8 [N, K], scales [N, blocks], and the numbers that they mean."""
    filled = np.pad(matrix, [(0, 0), (0, -matrix.shape[1] % block)])
    blocks = filled.reshape(len(matrix), -1, block)
    scales = np.maximum(np.abs(blocks).max(axis=2) / 7.5, 1e-9).astype(np.float32)
    integers = np.clip(np.round(blocks / scales[:, :, None]) + 8, 0, 15).astype(np.uint8)
    numbers = ((integers - 8.0) * scales[:, :, None]).reshape(filled.shape)[:, : matrix.shape[1]]
    return integers.reshape(filled.shape), scales, numbers


def up_rows(integers: np.ndarray, groups: int) -> np.ndarray:
    """Return rows of up as the operator reads them: 16 lanes of a vector have 4 weights of as many blocks."""
    rows, columns = integers.shape
    vectors = integers.reshape(rows, groups, 16, -1, 4).swapaxes(2, 3).reshape(rows, columns // 64, 64)
    vectors = np.pad(vectors, [(0, 0), (0, vectors.shape[1] % 2), (0, 0)])
    return np.ascontiguousarray(vectors[:, ::2] | vectors[:, 1::2] << 4).reshape(rows, -1)


def down_rows(integers: np.ndarray) -> np.ndarray:
    """Return rows of the transposed down, ordered for four of them to be interleaved: 128 outputs in 64 bytes."""
    filled = np.pad(integers, [(0, 0), (0, -integers.shape[1] % 128)])
    chunks = filled.reshape(len(integers), -1, 2, 4, 4, 4)  # half a byte, vector, lane of 128 bits, byte
    chunks = chunks.transpose(0, 1, 2, 4, 3, 5).reshape(len(integers), -1, 2, 64)
    return np.ascontiguousarray(chunks[:, :, 0] | chunks[:, :, 1] << 4).reshape(len(integers), -1)


class Graph:
    """Layers that read the same row and whose outputs are summed; all have copies of the same weights."""

    def __init__(self, hidden: int, inner: int, block: int) -> None:
        self.hidden, self.inner, self.block = hidden, inner, block
        self.groups = hidden // 512 if block == 32 and hidden % 512 == 0 else 1
        rng = np.random.default_rng(0)
        gate, up = (rng.normal(size=(inner, hidden)).astype(np.float32) / hidden**0.5 for _ in range(2))
        turned = rng.normal(size=(inner, hidden)).astype(np.float32) / inner**0.5
        self.gate, self.both = packed(gate, block), packed(np.concatenate([gate, up]), block)
        self.down, self.up = packed(turned.T, block), packed(up, hidden // 16 // self.groups)
        self.turned = packed(np.pad(turned, [(0, 0), (0, -hidden % 128)]), block)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def keep(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: float) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [*outputs], domain=domain, **attributes))

    def product(self, x: str, name: str, stored: Stored, num_inputs: int) -> str:
        integers, scales, _ = stored
        data = (integers[:, ::2] | integers[:, 1::2] << 4).reshape(*scales.shape, self.block // 2)
        inputs = [x, self.keep(f"{name}.data", data), self.keep(f"{name}.scales", scales)]
        sizes = {"N": len(integers), "K": num_inputs, "bits": 4, "block_size": self.block, "accuracy_level": 4}
        self.add("MatMulNBits", inputs, name, domain="com.microsoft", **sizes)
        return name

    def dense_layer(self, name: str) -> str:
        self.product("x", name + "both", self.both, self.hidden)
        self.add("Split", [name + "both"], name + "gate", name + "up", axis=-1, num_outputs=2)
        self.add("QuickGelu", [name + "gate"], name + "act", domain="com.microsoft", alpha=1.0)
        self.add("Mul", [name + "act", name + "up"], name + "inner")
        return self.product(name + "inner", name + "y", self.down, self.inner)

    def sparse_layer(self, name: str, tasks: int) -> str:
        self.product("x", name + "gate", self.gate, self.hidden)
        self.add("QuickGelu", [name + "gate"], name + "act", domain="com.microsoft", alpha=1.0)
        stored = (up_rows(self.up[0], self.groups), self.up[1], down_rows(self.turned[0]), self.turned[1])
        together = np.concatenate([array.view(np.uint8) for array in stored], axis=1)
        neurons = self.keep(name + "neurons", np.pad(together, [(0, 0), (0, -together.shape[1] % 64)]))
        sizes = {"hidden": self.hidden, "inner": self.inner, "groups": self.groups, "tasks": tasks}
        sizes["per_chunk"] = 128 // self.block
        self.add("SparseFfn", ["x", name + "act", "cut", neurons], name + "y", domain="bench", **sizes)
        return name + "y"

    def save(self, path: Path, num_layers: int, *, tasks: int = 0) -> Path:
        """Write a sparse graph that divides its work into `tasks`, or a dense one for 0 of them."""
        names = [f"l{number}." for number in range(num_layers)]
        self.add("Sum", [self.sparse_layer(name, tasks) if tasks else self.dense_layer(name) for name in names], "y")
        shapes = {"x": [1, self.hidden]} | ({"cut": [self.inner]} if tasks else {})
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, self.hidden])
        graph = helper.make_graph(self.nodes, "ffn", inputs, [output], self.weights)
        opsets = [helper.make_opsetid(*opset) for opset in (("", 21), ("com.microsoft", 1), ("bench", 1))]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        self.nodes.clear()
        self.weights.clear()
        return path


def session(path: Path, library: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def row_of(hidden: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, hidden)).astype(np.float32)


def cut_of(sparsity: float) -> float:
    """Return the size below which this share of gates lies: SiLU of a normal distribution of width 1."""
    values = np.random.default_rng(2).normal(size=200_000)
    return float(np.quantile(np.abs(values / (1 + np.exp(-values))), sparsity))


def check(graph: Graph, library: Path, folder: Path) -> None:
    """Refuse to time an operator that is wrong: one layer beside NumPy, all gates and half of them."""
    found = session(graph.save(folder / "check.onnx", 1, tasks=2), library, 2)
    x = row_of(graph.hidden)
    raw = x @ graph.gate[2].T
    acts = raw / (1 + np.exp(-raw))
    for cut, most in ((0.0, 0.03), (cut_of(0.5), 0.06)):  # rounded gates are not cut as exact ones are
        values = np.where(np.abs(acts) >= cut, acts * (x @ graph.up[2].T), 0)
        expected = values @ graph.turned[2][:, : graph.hidden]
        (y,) = found.run(None, {"x": x, "cut": np.full(graph.inner, cut, np.float32)})
        error = float(np.linalg.norm(y - expected) / np.linalg.norm(expected))
        assert error < most, f"hidden {graph.hidden}, block {graph.block}: the operator is off by {error:.1%}"


def measure(name: str, threads: int, rounds: int, library: Path, folder: Path) -> None:
    hidden, inner, num_layers = SHAPES[name]
    runs = dict[str, tuple[ort.InferenceSession, dict[str, np.ndarray]]]()
    x = row_of(hidden)
    for block in (32, 128):
        graph = Graph(hidden, inner, block)
        check(graph, library, folder)
        dense = session(graph.save(folder / "dense.onnx", num_layers), library, threads)
        runs[f"dense, block {block}"] = (dense, {"x": x})
        sparse = session(graph.save(folder / "sparse.onnx", num_layers, tasks=threads), library, threads)
        for share in SPARSITIES:
            cut = np.full(inner, cut_of(share), np.float32)
            runs[f"sparse {share:.0%}, block {block}"] = (sparse, {"x": x, "cut": cut})
    times: dict[str, list[float]] = {run: [] for run in runs}
    now = thread_time if threads == 1 else perf_counter
    for _ in range(rounds):
        for run, (model, inputs) in runs.items():
            model.run(None, inputs)  # its own weights and threads again
            start = now()
            model.run(None, inputs)
            times[run].append((now() - start) * 1e6 / num_layers)
    for run, values in times.items():
        dense = times[f"dense, {run.partition(', ')[2]}"]
        gain, best = median(dense) / median(values), min(dense) / min(values)
        figures = f"{median(values):7.1f} us a layer, {gain:.2f} x   best {min(values):7.1f} us, {best:.2f} x"
        print(f"{name:8} {threads} thread(s)  {run:22} {figures}", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as name:
        folder, library = Path(name), Path(name) / "sparse_ffn.so"
        subprocess.run(
            ["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-w", "-o", library, SOURCE, "-lm"], check=True
        )
        for shape in SHAPES:
            for threads in (1, 2):
                measure(shape, threads, rounds, library, folder)


if __name__ == "__main__":
    main()

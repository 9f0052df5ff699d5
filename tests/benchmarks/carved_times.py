"""Print how long a step of one token takes with some of the experts, beside the dense model's.

    python tests/benchmarks/carved_times.py CHECKPOINT [--precision int4] [--group-size 32] [--experts auto]
        [--rounds 60] [--threads 2] [--active 1 0.75 0.5 0.25]

CHECKPOINT is a folder; its FFNs are carved in the order in which neurons stand, as times do not depend on that. Graphs
run in turn, over a cache of 64 rows; medians, and in brackets the fastest tenth. What a step takes without FFNs is
measured too, so that FFNs can be told apart. With one thread the time is that of the thread, which other programs
disturb less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from skipstone.api import plan
from skipstone.carve.shape import ExpertCount, block_size
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import CarveExperts, DropBlocks, ExpertLayer, Transform
from skipstone.runtime.engine import rotary_rows

CACHED = 64


def carving(whole: ExportPlan, experts: str) -> CarveExperts:
    """Return experts of neurons as they stand, with routers of chance."""
    count, rng = ExpertCount.parse(experts, whole), np.random.default_rng(0)
    layers = {}
    for layer, width in enumerate(whole.architecture.ffn_widths):
        ffn = count.ffn(width, block_size(whole, layer), "linear")
        shapes = ffn.router_shapes(whole.architecture.dimensions.hidden_size)
        tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        layers[layer] = ExpertLayer(ffn, np.arange(width), tensors)
    return CarveExperts(count.total, count.shared, layers)


class Step:
    """One graph, and what a step of one token feeds it."""

    def __init__(self, file: Path, planned: ExportPlan, threads: int, active: tuple[int, ...]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(file), options)
        self._binding = self._session.io_binding()
        d = planned.architecture.dimensions
        inputs = {
            "token_ids": np.array([[[7]]]),
            "token_weights": np.ones((1, 1, 1), np.float32),
            "position_ids": np.array([[CACHED]]),
            "seqlens_k": np.array([CACHED], np.int32),
            "total_sequence_length": np.array(CACHED + 1, np.int32),
            "attention_bias": np.zeros((1, 1, 1, CACHED + 1), np.float32),
            "attention_rows": np.zeros(1, np.int64),
            "token_rows": np.zeros(1, np.int64),
            "rows": np.zeros(1, np.int64),
            "active_experts": np.array(active),
        }
        for number, rotary in enumerate(planned.architecture.rotary_kinds):
            tables = rotary_rows(rotary.entry(), range(CACHED + 1), width=d.head_size // 2, is_long=False)
            inputs |= dict(zip((f"cosines_{number}", f"sines_{number}"), tables, strict=True))
        cache = np.zeros((1, d.num_kv_heads, 2 * CACHED, d.head_size), np.float32)
        for argument in self._session.get_inputs():
            value = ort.OrtValue.ortvalue_from_numpy(inputs.get(argument.name, cache))
            self._binding.bind_ortvalue_input(argument.name, value)
            if argument.name.startswith("past_"):
                self._binding.bind_ortvalue_output(argument.name.replace("past", "present"), value)
        self._binding.bind_output("logits")
        self._clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns

    def ms(self) -> float:
        start = self._clock()
        self._session.run_with_iobinding(self._binding)
        return (self._clock() - start) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--experts", default="auto")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--active", nargs="+", type=float, default=[1, 0.75, 0.5, 0.25])
    options = parser.parse_args()
    keywords = {"precision": options.precision, "group_size": options.group_size}
    with tempfile.TemporaryDirectory() as name:
        steps = built(Path(name), options, keywords)
        times = {label: [] for label in steps}
        for _ in range(options.rounds):
            for label, step in steps.items():
                step.ms()
                times[label].append(step.ms())
    show(times)


def built(folder: Path, options: argparse.Namespace, keywords: dict[str, object]) -> dict[str, Step]:
    """Export the dense model, the carved one and one without FFNs, and return the graphs to time."""
    whole = plan(options.checkpoint, **keywords)
    assert isinstance(whole, ExportPlan)
    num_layers = whole.architecture.dimensions.num_layers
    none = tuple(range(num_layers))
    transforms: dict[str, list[Transform]] = {
        "dense": [],
        "no FFN": [DropBlocks(attention=(), ffn=none)],
        "carved": [carving(whole, options.experts)],
    }
    steps = {}
    for label, changes in transforms.items():
        planned = plan(options.checkpoint, transforms=changes, **keywords)
        assert isinstance(planned, ExportPlan)
        planned.write(folder / label)
        steps[label] = Step(folder / label / "stage-00.onnx", planned, options.threads, none)
    (carved,) = transforms["carved"]
    assert isinstance(carved, CarveExperts)
    print(f"{carved.num_experts} experts, {carved.num_shared} of them shared", flush=True)
    for share in options.active:
        active = carved.active_at(share, num_layers)
        file = folder / "carved" / "stage-00.sparse.onnx"
        steps[f"{100 * share:g} % active"] = Step(file, planned, options.threads, active)
    return steps


def show(times: dict[str, list[float]]) -> None:
    for statistic, of in (("median", np.median), ("fastest tenth", lambda values: np.percentile(values, 10))):
        found = {label: float(of(values)) for label, values in times.items()}
        rest, dense = found["no FFN"], found["dense"]
        print(f"{statistic}: without FFNs {rest:.2f} ms")
        print("| | step ms | step, dense / this | FFN, this / dense |\n|---|---|---|---|")
        for label, ms in found.items():
            if label != "no FFN":
                print(f"| {label} | {ms:.2f} | {dense / ms:.2f} | {(ms - rest) / (dense - rest):.2f} |")


if __name__ == "__main__":
    main()

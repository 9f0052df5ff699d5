"""Print what a model loses with some of its experts: KL to all of them and perplexity, by how its FFNs are carved.

    python tests/benchmarks/carved_quality.py CHECKPOINT TEXT [--precision int8] [--experts auto] [--windows 8]
        [--ways best markers/neuron k-means/centre sizes/fit] [--active 1 0.75 0.5 0.25] [--calibrate auto]

CHECKPOINT is a folder, TEXT a file of text or of chats to judge by; FFNs are carved by the text of --calibrate. The
ways are clusters and router: `markers/neuron` is CMoE, `k-means/centre` is MoEfication with the router of Avg-K,
`sizes/fit` are FFSplit's heavy hitters with a router by least squares, `best` what an export takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from skipstone.api import plan
from skipstone.calibrate import Documents, Windows
from skipstone.carve import find_experts
from skipstone.evaluate import divergences, log_softmax
from skipstone.exporters import ExportPlan
from skipstone.runtime.engine import rotary_rows


def log_probs(session: ort.InferenceSession, planned: ExportPlan, window: NDArray[np.int64], active: object) -> object:
    """Return the log probabilities [T, V] of a window."""
    count, d, rows = len(window), planned.architecture.dimensions, np.arange(len(window))
    inputs = {
        "token_ids": window[None, :, None],
        "token_weights": np.ones((1, count, 1), np.float32),
        "position_ids": rows[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "total_sequence_length": np.array(count, np.int32),
        "attention_bias": np.zeros((1, 1, count, count), np.float32),
        "attention_rows": rows,
        "token_rows": rows,
        "rows": rows,
        "active_experts": np.array(active),
    }
    for number, rotary in enumerate(planned.architecture.rotary_kinds):
        tables = rotary_rows(rotary.entry(), range(count), width=d.head_size // 2, is_long=False)
        inputs |= dict(zip((f"cosines_{number}", f"sines_{number}"), tables, strict=True))
    cache = np.zeros((1, d.num_kv_heads, count, d.head_size), np.float32)
    feed = {argument.name: inputs.get(argument.name, cache) for argument in session.get_inputs()}
    return log_softmax(session.run(["logits"], feed)[0])


def judge(folder: Path, planned: ExportPlan, windows: NDArray[np.int64], levels: dict[str, object]) -> None:
    dense, sparse = (ort.InferenceSession(str(folder / file)) for file in ("stage-00.onnx", "stage-00.sparse.onnx"))
    kl, nats, first = dict.fromkeys(levels, 0.0), dict.fromkeys(levels, 0.0), 0.0
    for window in windows:
        before = log_probs(dense, planned, window, ())
        taken = np.arange(len(window) - 1), window[1:]
        first -= before[taken].sum()
        for label, active in levels.items():
            after = log_probs(sparse, planned, window, active)
            kl[label] += float(divergences(before, after).sum())
            nats[label] -= after[taken].sum()
    num_tokens = windows.size - len(windows)
    print(f"dense: perplexity {np.exp(first / num_tokens):.2f} on {windows.size} tokens")
    for label in levels:
        print(f"| {label} | {kl[label] / windows.size:.4f} | {np.exp(nats[label] / num_tokens):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--experts", default="auto")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--calibrate", default="auto")
    parser.add_argument("--ways", nargs="+", default=["best", "markers/neuron", "k-means/centre", "sizes/fit"])
    parser.add_argument("--active", nargs="+", type=float, default=[1, 0.75, 0.5, 0.25])
    options = parser.parse_args()
    whole = plan(options.checkpoint, precision=options.precision)
    assert isinstance(whole, ExportPlan)
    windows = Windows.of(whole, Documents.read(options.text), num_windows=options.windows).calibrate
    documents = Documents.read(options.calibrate)
    for way in options.ways:
        start = time.perf_counter()
        found = find_experts(whole, options.experts, documents, way=None if way == "best" else way)
        print(f"\n{way}: {time.perf_counter() - start:.0f} s; {found}", flush=True)
        planned = plan(options.checkpoint, precision=options.precision, transforms=[found.transform])
        assert isinstance(planned, ExportPlan)
        num_layers = planned.architecture.dimensions.num_layers
        levels = {f"{100 * share:g} %": found.transform.active_at(share, num_layers) for share in options.active}
        with tempfile.TemporaryDirectory() as name:
            planned.write(Path(name) / "bundle")
            judge(Path(name) / "bundle", planned, windows, levels)


if __name__ == "__main__":
    main()

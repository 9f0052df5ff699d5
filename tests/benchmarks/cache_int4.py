"""What a cache of 4 bits loses, with keys and values turned by a Hadamard matrix and without, and what its step takes.

python tests/benchmarks/cache_int4.py BUNDLE [--tokens 600] [--context 3000] [--threads 2]

An experiment. The rounding is played: rows are rounded in an fp32 cache as soon as they are cached, with one scale for
each channel, found on a text of its own; a few new tokens still see each other unrounded. Keys are turned after their
rotary angles, so the product with a query that is turned too stays what it was. The time is that of the attention
operator alone, in all layers, and of the small products that would turn queries, keys, values and what comes out.

Source: QuaRot (Ashkboos et al., 2024), its rotation of keys and values.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

import skipstone
from skipstone.bench import bench_texts
from skipstone.runtime.engine import Draft, Model, Sequence

Array = NDArray[np.float32]
CHUNK = 8
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
KINDS = {"int8": (8, False), "int4": (4, False), "int4 turned": (4, True)}
CACHE_TYPES = {None: (np.float32, TensorProto.FLOAT), 8: (np.int8, TensorProto.INT8), 4: (np.uint8, TensorProto.UINT8)}


def hadamard(size: int) -> Array:
    """Return the orthogonal matrix of a power of two."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def rounded(rows: Array, scale: Array, bits: int) -> Array:
    top = 2 ** (bits - 1)
    result: Array = np.clip(np.round(rows / scale), -top, top - 1) * scale
    return result


def channel_scales(rows: Array, bits: int) -> Array:
    """Return the scale of each channel [K, 1, D] that rounds rows [K, T, D] with the least squared error."""
    largest = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1) + 1e-9
    tried = [largest * clip for clip in CLIPS]
    errors = [np.square(rows - rounded(rows, scale, bits)).sum(axis=1, keepdims=True) for scale in tried]
    best = np.argmin(errors, axis=0)
    chosen: Array = np.choose(best, tried).astype(np.float32)
    return chosen


class PlayedCache:
    """A cache whose rows are rounded as those of a kind would be."""

    def __init__(self, sequence: Sequence, bits: int, turn: Array) -> None:
        """`sequence` holds the text of calibration."""
        self._bits, self._turn = bits, turn
        length = sequence.num_cached
        self._scales = [channel_scales(buffer.read()[0, :, :length] @ turn, bits) for buffer in sequence.cache]

    def round(self, sequence: Sequence, start: int, end: int) -> None:
        for buffer, scale in zip(sequence.cache, self._scales, strict=True):
            turned = buffer.read()[0, :, start:end] @ self._turn
            buffer.write(rounded(turned, scale, self._bits) @ self._turn.T, np.s_[0, :, start:end])


def log_probs(model: Model, token_ids: list[int], cache: PlayedCache | None) -> Array:
    """Return log probabilities [T, V] behind each token, read some tokens at a time."""
    sequence, rows = model.new_sequence(context_length=len(token_ids) + CHUNK), []
    for start in range(0, len(token_ids), CHUNK):
        chunk = token_ids[start : start + CHUNK]
        sequence.append(chunk[:1])
        logits = sequence.extend(Draft.chain(chunk[1:], source="text")).astype(np.float64)
        rows.append(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        if len(chunk) > 1:
            sequence.commit(chunk[1:])
            sequence.extend(Draft.empty())  # caches the last one
        if cache is not None:
            cache.round(sequence, start, start + len(chunk))
    return np.concatenate(rows).astype(np.float32)


def attention_ms(model: Model, bits: int | None, *, context: int, threads: int) -> float:
    """Return the milliseconds of one token's attention in all layers."""
    d = model.manifest.dimensions
    dtype, tensor = CACHE_TYPES[bits]
    size = d.head_size // 2 if bits == 4 else d.head_size
    values: dict[str, Any] = {
        "q": np.ones((1, 1, d.num_heads * d.head_size), np.float32),
        "k": np.ones((1, 1, d.num_kv_heads * d.head_size), np.float32),
        "v": np.ones((1, 1, d.num_kv_heads * d.head_size), np.float32),
        "past_k": np.ones((1, d.num_kv_heads, context + 8, size), dtype),
        "past_v": np.ones((1, d.num_kv_heads, context + 8, size), dtype),
        "last": np.array([context], np.int32),
        "total": np.array(context + 1, np.int32),
    }
    names, settings = list(values), {}
    if bits:
        values |= {name: np.full((1, d.num_kv_heads, 1, d.head_size), 0.1, np.float32) for name in ("ks", "vs")}
        names += ["", "", "", "", "", "ks", "vs"]
        settings = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": bits}
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["y", "new_k", "new_v"],
        domain="com.microsoft",
        num_heads=d.num_heads,
        kv_num_heads=d.num_kv_heads,
        **settings,
    )
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
        if name not in ("ks", "vs")
    ]
    outputs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("y", TensorProto.FLOAT), ("new_k", tensor), ("new_v", tensor))
    ]
    constants = [onnx.numpy_helper.from_array(values[name], name) for name in ("ks", "vs") if bits]
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", inputs, outputs, constants)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    proto = helper.make_model(graph, opset_imports=domains, ir_version=10)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    held = {name: ort.OrtValue.ortvalue_from_numpy(values[name]) for name in values if name not in ("ks", "vs")}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for kind in ("k", "v"):
        binding.bind_ortvalue_output(f"new_{kind}", held[f"past_{kind}"])
    binding.bind_output("y")
    return d.num_layers * 1e3 * _median_s(lambda: session.run_with_iobinding(binding))


def _median_s(run: Any) -> float:
    times = []
    for _ in range(40):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--context", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = skipstone.load(options.bundle, cache="fp32", threads=options.threads).runtime
    texts = model.tokenizer.encode("\n\n".join(bench_texts()))
    shown, judged = texts[: options.tokens], texts[options.tokens : 2 * options.tokens]
    calibration = model.new_sequence(context_length=len(shown) + 1)
    calibration.append(shown)
    calibration.extend(Draft.empty())
    plain, size = log_probs(model, judged, None), model.manifest.dimensions.head_size
    print(f"{len(judged)} tokens judged; attention of a token behind {options.context:,}, all layers")
    print("| cache | bytes | KL | same choice | attention ms |\n|---|---|---|---|---|")
    print(
        f"| fp32 | 1 | 0 | 100 % | {attention_ms(model, None, context=options.context, threads=options.threads):.2f} |"
    )
    for name, (bits, turned) in KINDS.items():
        cache = PlayedCache(calibration, bits, hadamard(size) if turned else np.eye(size, dtype=np.float32))
        found = log_probs(model, judged, cache)
        kl = float((np.exp(plain) * (plain - found)).sum(axis=1).mean())
        same = float((plain.argmax(axis=1) == found.argmax(axis=1)).mean())
        spent = attention_ms(model, bits, context=options.context, threads=options.threads)
        print(f"| {name} | 1/{32 // bits} | {kl:.4f} | {same:.1%} | {spent:.2f} |", flush=True)


if __name__ == "__main__":
    main()

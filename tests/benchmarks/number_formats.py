"""Print how well other formats hold real matrices: the share of their products' power that is lost, at so many bits.

    python tests/benchmarks/number_formats.py CHECKPOINT TEXT [--layers 3 26]

Formats are fitted to the inputs of the text in the package and judged by those of TEXT: tr(D H D') / tr(W H W'), D what
rounding moves and H the mean outer product of inputs, geometric means over q, o, up and down of some layers. Each is
rounded to the nearest with a search of scales, and again with what each column loses handed to those that follow
(GPTQ). Bits have all that is stored: scales, zero points, codebooks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone.bundled import BUNDLED
from skipstone.calibrate import Documents, LayerGraphs, Windows, batches, hessians, through
from skipstone.devices import open_device
from skipstone.exporters import ExportOptions, ExportPlan, plan_export
from skipstone.exporters.graph import ModelWeights
from skipstone.quant import Recipe, gptq, hessian_error, quantize

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_CHUNK = 128
KINDS = {"q": "qkv", "o": "o", "up": "gate_up", "down": "down"}
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
NF4_BELOW = [-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0]
NF4 = np.array([*NF4_BELOW, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1], np.float32)


def float8() -> Floats:  # E4M3
    normal = [2.0 ** (e - 7) * (1 + m / 8) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    return np.array([2.0**-6 * m / 8 for m in range(8)] + normal, np.float32)


def mirrored(levels: Floats) -> Floats:
    return np.unique(np.concatenate([-levels, levels]))


def nearest(x: Floats, levels: Floats) -> Floats:
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]


@dataclass(frozen=True)
class Scalars:
    """Levels times a scale for each block of columns; scales are rounded by `scale_of`."""

    levels: Floats
    block: int
    scale_of: Callable[[Floats], Floats]

    def rounder(self, matrix: Floats, importance: Floats) -> Callable[[slice, Floats], Floats]:
        scales = np.repeat(self._scales(matrix, importance), min(self.block, matrix.shape[1]), axis=1)[
            :, : matrix.shape[1]
        ]
        return lambda columns, part: nearest(part / scales[:, columns], self.levels) * scales[:, columns]

    def _scales(self, matrix: Floats, importance: Floats) -> Floats:
        rows, columns = matrix.shape
        block = min(self.block, columns)
        filling = -columns % block
        split = np.pad(matrix, [(0, 0), (0, filling)]).reshape(rows, -1, block)
        weights = np.pad(importance, (0, filling)).reshape(1, -1, block)
        plain = np.maximum(np.abs(split).max(axis=-1), 1e-12) / np.abs(self.levels).max()
        best, least = plain, np.full(plain.shape, np.inf, np.float32)
        for factor in np.linspace(0.7, 1.1, 13, dtype=np.float32):
            scales = np.maximum(self.scale_of(plain * factor), 1e-12)
            error = (
                weights * np.square(nearest(split / scales[..., None], self.levels) * scales[..., None] - split)
            ).sum(axis=-1)
            best, least = np.where(error < least, scales, best), np.minimum(error, least)
        return best


@dataclass(frozen=True)
class Rows:
    """A scale for each row, and 16 levels that a group of like rows learns (JLCM without its training)."""

    group: int

    def rounder(self, matrix: Floats, importance: Floats) -> Callable[[slice, Floats], Floats]:
        scales = np.sqrt(np.square(matrix).mean(axis=1, keepdims=True)) + 1e-12
        scaled = matrix / scales
        order = np.argsort((scaled**4).mean(axis=1))  # by the weight of their tails
        levels = np.zeros((len(matrix), 16), np.float32)
        for start in range(0, len(matrix), self.group):
            rows = order[start : start + self.group]
            levels[rows] = learned(scaled[rows], importance)

        def rounded(columns: slice, part: Floats) -> Floats:
            places = np.abs((part / scales)[:, :, None] - levels[:, None]).argmin(axis=-1)
            return np.take_along_axis(levels, places, axis=1) * scales

        return rounded


def learned(rows: Floats, importance: Floats) -> Floats:
    values, weights = rows.ravel(), np.tile(importance, len(rows))
    levels = np.quantile(values, (np.arange(16) + 0.5) / 16).astype(np.float32)
    for _ in range(15):
        places = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        sums, counts = np.bincount(places, weights * values, 16), np.bincount(places, weights, 16)
        levels = np.where(counts > 0, sums / np.maximum(counts, 1e-30), levels).astype(np.float32)
        levels.sort()
    return levels


@dataclass(frozen=True)
class Additive:
    """Groups of 8 columns as a sum of one of 256 vectors from each of some codebooks, times a scale by row (AQLM)."""

    num_books: int
    group: int = 8

    def rounder(self, matrix: Floats, importance: Floats) -> Callable[[slice, Floats], Floats]:
        scales = np.sqrt(np.square(matrix).mean(axis=1, keepdims=True)) + 1e-12
        vectors = (matrix / scales).reshape(-1, self.group)
        weights = np.tile(importance.reshape(-1, self.group), (len(matrix), 1))
        books = self._books(vectors, weights)

        def rounded(columns: slice, part: Floats) -> Floats:
            found = self._codes(part / scales, np.tile(importance[columns], (len(part), 1)), books)
            return sum(book[code] for book, code in zip(books, found, strict=True)) * scales

        return rounded

    def _books(self, vectors: Floats, weights: Floats) -> list[Floats]:
        rng, books = np.random.default_rng(0), list[Floats]()
        left, codes = vectors.copy(), list[NDArray[np.int64]]()
        for _ in range(self.num_books):
            book = left[rng.choice(len(left), 256, replace=False)].copy()
            for _ in range(8):
                code = closest(left, weights, book)
                book = means(left, weights, code, book)
            books.append(book)
            codes.append(closest(left, weights, book))
            left = left - book[codes[-1]]
        for _ in range(4):
            for place, book in enumerate(books):
                own = left + book[codes[place]]
                codes[place] = closest(own, weights, book)
                books[place] = means(own, weights, codes[place], book)
                left = own - books[place][codes[place]]
        return books

    def _codes(self, vectors: Floats, weights: Floats, books: list[Floats]) -> list[NDArray[np.int64]]:
        left, codes = vectors.copy(), list[NDArray[np.int64]]()
        for book in books:
            codes.append(closest(left, weights, book))
            left = left - book[codes[-1]]
        for _ in range(2):
            for place, book in enumerate(books):
                own = left + book[codes[place]]
                codes[place] = closest(own, weights, book)
                left = own - book[codes[place]]
        return codes


def closest(vectors: Floats, weights: Floats, book: Floats) -> NDArray[np.int64]:
    return (weights @ np.square(book).T - 2 * (weights * vectors) @ book.T).argmin(axis=1)


def means(vectors: Floats, weights: Floats, codes: NDArray[np.int64], book: Floats) -> Floats:
    sums, totals = np.zeros_like(book), np.zeros_like(book)
    for column in range(book.shape[1]):
        sums[:, column] = np.bincount(codes, weights[:, column] * vectors[:, column], 256)
        totals[:, column] = np.bincount(codes, weights[:, column], 256)
    return np.where(totals > 0, sums / np.maximum(totals, 1e-30), book).astype(np.float32)


@dataclass(frozen=True)
class DoReFa:
    """tanh of the weights in equal steps; the scale that fits the matrix best."""

    bits: int

    def rounder(self, matrix: Floats, importance: Floats) -> Callable[[slice, Floats], Floats]:
        most, steps = np.tanh(np.abs(matrix).max()), 2**self.bits - 1

        def plain(part: Floats) -> Floats:
            return 2 * np.round((np.tanh(part) / (2 * most) + 0.5) * steps) / steps - 1

        whole = plain(matrix)
        scale = float((whole * matrix * importance).sum() / (np.square(whole) * importance).sum())
        return lambda columns, part: plain(part) * scale


def handed_on(matrix: Floats, factor: Doubles, group: int, rounded: Callable[[slice, Floats], Floats]) -> Floats:
    """Round group after group of columns; what each loses is made up for by those that follow (GPTQ, GPTVQ)."""
    left, result = matrix.astype(np.float64), np.empty_like(matrix)
    for chunk in range(0, matrix.shape[1], _CHUNK):
        end = min(chunk + _CHUNK, matrix.shape[1])
        lost = np.zeros((len(matrix), end - chunk))
        for start in range(chunk, end, group):
            own, near = slice(start, start + group), slice(start + group, end)
            result[:, own] = rounded(own, left[:, own].astype(np.float32))
            part = np.linalg.solve(factor[own, own].T, (left[:, own] - result[:, own]).T).T
            left[:, near] -= part @ factor[own, near]
            lost[:, start - chunk : start - chunk + group] = part
        left[:, end:] -= lost @ factor[chunk:end, end:]
    return result


def half(scales: Floats) -> Floats:
    return scales.astype(np.float16).astype(np.float32)


def eighth(scales: Floats) -> Floats:
    """Scales in E4M3, times one number of the tensor so that the largest is 448 (FireQ, NVFP4)."""
    whole = scales.max() / 448
    return nearest(scales / whole, float8()) * whole


def power(scales: Floats) -> Floats:
    return np.exp2(np.round(np.log2(np.maximum(scales, 1e-30)))).astype(np.float32)


INT4 = np.arange(-8, 8, dtype=np.float32)
INT8 = np.arange(-128, 128, dtype=np.float32)
E4M3 = mirrored(float8())
# What it is, how many columns are rounded at once, and the bits of a matrix [N, K] beside those of its codes.
FORMATS: Mapping[str, tuple[Scalars | Rows | Additive | DoReFa, int, Callable[[int, int], float]]] = {
    "int4, block 32": (Scalars(INT4, 32, half), 1, lambda n, k: 4 + 16 / 32),
    "int4, block 32, FP8 scales (FireQ)": (Scalars(INT4, 32, eighth), 1, lambda n, k: 4 + 8 / 32),
    "FP4, block 16, FP8 scales (NVFP4)": (Scalars(mirrored(FP4), 16, eighth), 1, lambda n, k: 4 + 8 / 16),
    "FP4, block 32, powers of two (MXFP4)": (Scalars(mirrored(FP4), 32, power), 1, lambda n, k: 4 + 8 / 32),
    "NF4, block 32": (Scalars(NF4, 32, half), 1, lambda n, k: 4 + 16 / 32),
    "learned levels of 64 like rows (JLCM)": (Rows(64), 1, lambda n, k: 4 + 16 / k + 256 / (64 * k)),
    "4 x 256 vectors of 8 (AQLM)": (Additive(4), 8, lambda n, k: 4 + 16 / k + 4 * 256 * 8 * 16 / (n * k)),
    "tanh, 4 bits (DoReFa)": (DoReFa(4), 1, lambda n, k: 4 + 16 / (n * k)),
    "2 x 256 vectors of 8 (AQLM)": (Additive(2), 8, lambda n, k: 2 + 16 / k + 2 * 256 * 8 * 16 / (n * k)),
    "int8, block 32": (Scalars(INT8, 32, half), 1, lambda n, k: 8 + 16 / 32),
    "FP8 E4M3, a scale by row": (Scalars(E4M3, 1 << 20, half), 1, lambda n, k: 8 + 16 / k),
    "FP8 E4M3, block 32": (Scalars(E4M3, 32, half), 1, lambda n, k: 8 + 16 / 32),
}
OURS = {"ours, 4 bits, block 32": (4, 32), "ours, 2 bits, block 32": (2, 32), "ours, 8 bits, block 32": (8, 32)}


def inputs_of(plan: ExportPlan, text: str, layers: list[int], folder: Path) -> Mapping[str, Doubles]:
    graphs, found = LayerGraphs(plan, open_device(), folder), dict[str, Doubles]()
    tokens = Windows.of(plan, Documents.read(text)).calibrate[:16]
    with graphs.embedding() as graph:
        states = np.concatenate([graph.embed(tokens[batch]) for batch in batches(tokens)])
    for layer in range(max(layers) + 1):
        with graphs.layer(layer, tap=lambda name, layer=layer: layer in layers) as graph:
            found |= {name.removesuffix(".0"): hessian for name, hessian in hessians(graph, states).items()}
            states = through(graph, states)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 26])
    options = parser.parse_args()
    source = BUNDLED.get(options.checkpoint, options.checkpoint)
    plan = plan_export(source, ExportOptions(recipe=Recipe.named("fp32"), keep_integers=False))
    weights = ModelWeights(plan.architecture, plan.checkpoint.tensors, lambda num_parameters: None)
    with tempfile.TemporaryDirectory() as folder:
        fit, judge = (inputs_of(plan, text, options.layers, Path(folder)) for text in ("auto", options.text))
    lost: dict[str, list[tuple[float, float, float]]] = {}
    for layer in options.layers:
        for name, place in KINDS.items():
            matrix, key = np.ascontiguousarray(weights.read(name, layer)), f"layers.{layer}.{place}"
            power_of = hessian_error(matrix, np.zeros_like(matrix), judge[key])
            for label, bits, found in results(matrix, fit[key]):
                losses = [hessian_error(matrix, one, judge[key]) / power_of for one in found]
                lost.setdefault(label, []).append((bits, losses[0], losses[1]))
            show(lost, f"up to {name} of layer {layer}")


def show(lost: Mapping[str, list[tuple[float, float, float]]], title: str) -> None:
    print(f"\n{title}\n\n| format | bits | lost, nearest | lost, handed on |\n|---|---|---|---|")
    for label, rows in lost.items():
        bits, near, handed = np.array(rows).T
        figures = (f"{100 * np.exp(np.log(values).mean()):.4f} %" for values in (near, handed))
        print(f"| {label} | {bits.mean():.2f} | {' | '.join(figures)} |", flush=True)


def results(matrix: Floats, hessian: Doubles) -> list[tuple[str, float, tuple[Floats, Floats]]]:
    """Return for each format its bits, and the matrix as it gives it: to the nearest, and with errors handed on."""
    importance, found = np.diag(hessian).astype(np.float32), []
    damped = hessian + np.eye(len(hessian)) * 0.01 * np.diag(hessian).mean()
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    for label, (bits, block) in OURS.items():
        near = quantize(matrix, bits=bits, block_size=block, symmetric=False, importance=importance).dequantize()
        handed = gptq(matrix, hessian, bits=bits, block_size=block).dequantize()
        found.append((label, bits + (16 + bits) / block, (near, handed)))
    for label, (form, group, num_bits) in FORMATS.items():
        rounded = form.rounder(matrix, importance)
        parts = [rounded(slice(s, s + group), matrix[:, s : s + group]) for s in range(0, matrix.shape[1], group)]
        handed = handed_on(matrix, factor, group, rounded)
        found.append((label, num_bits(*matrix.shape), (np.concatenate(parts, axis=1), handed)))
    return found


if __name__ == "__main__":
    main()

"""Methods of activation sparsity, judged side by side: what a share of saved work costs in quality.

Shapes: W windows, T tokens of each, E hidden size, N rows, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate import AUTO, Documents, LayerGraph, LayerGraphs, Windows, tokenizer_of
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.evaluate import ModelQuality, Tally, log_softmax
from skipstone.exporters import ExportPlan, all_numbers
from skipstone.sparsity.beside import Beside
from skipstone.sparsity.layer import SCOPES, Scope
from skipstone.sparsity.methods import SparsityMethod, parse_methods
from skipstone.sparsity.products import products_of, refuse_sparsity
from skipstone.sparsity.streams import Stream, run_streams
from skipstone.sparsity.work import SkippedWork

__all__ = ["AT", "SparsityOptions", "SparsityRow", "judge_sparsity"]

Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[float], None]
AT: Final = (25.0, 40.0, 50.0, 65.0)
_WINDOW: Final = 256
_CALIBRATED: Final = 16  # windows
_ROWS: Final = 64  # of logits at once
_OF_LAYERS: Final = 0.8  # of the time


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityOptions:
    """`at` is in percent of the multiply-adds of all layers' matrices, or of FFNs alone where `of` is `ffn`.

    `methods` are names apart by commas; None are all that fit. `calibrate` is a file of text, or `auto`. `max_tokens`
    are read to judge by, in windows of 256, of which the first `prompt` are dense and not judged.
    """

    methods: str | None = None
    at: tuple[float, ...] = AT
    of: str = "layers"
    calibrate: str | Path = AUTO
    max_tokens: int = 4096
    prompt: int = 64
    seed: int = 0
    beside: Sequence[Beside] = field(default=())

    def __post_init__(self) -> None:
        if self.of not in SCOPES:
            raise ConfigError(f"--of takes {' or '.join(SCOPES)}; got {self.of!r}")
        if not self.at or not all(0 < share < 100 for share in self.at):
            raise ConfigError(f"--at takes percents between 0 and 100; got {', '.join(f'{x:g}' for x in self.at)}")
        if not 1 <= self.prompt <= _WINDOW - 2:
            raise ConfigError(f"--prompt takes 1 to {_WINDOW - 2} tokens of each window; got {self.prompt}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityRow:
    """A row of the table: a method that was asked to save a share of the work, and what it did.

    `saved` is the share of the multiply-adds of all layers' matrices that were skipped on the judged text, less what
    the method adds; `saved_ffn` is that of the FFNs', `saved_step` that of a step with the head. Without a `quality`
    the share is out of the method's `reach`. The dense model is asked for nothing; zeros of its own are counted.
    """

    method: str
    asked: float | None
    saved: float = 0.0
    saved_ffn: float = 0.0
    saved_step: float = 0.0
    quality: ModelQuality | None = None
    reach: float | None = None


def judge_sparsity(
    plan: ExportPlan,
    texts: Sequence[str],
    options: SparsityOptions,
    *,
    on_progress: Progress = lambda share: None,
) -> list[SparsityRow]:
    """Return the dense model, each method at each share, and what else stands beside them, on the same texts.

    All in float32, beside the dense model in float32: a row for each. `plan` is that of the checkpoint; what it would
    round is not. Cost: about as many passes over the text as rows; TEAL and LaRoSA search in each layer.
    Raises: ConfigError for options and texts that do not fit, UnsupportedModel.
    """
    architecture = plan.architecture
    refuse_sparsity(architecture)
    tensors = all_numbers(architecture, plan.checkpoint.tensors)
    plan = replace(plan, checkpoint=replace(plan.checkpoint, tensors=tensors))
    is_gated = any(product.name == "gate" for product in products_of(architecture, 0))
    methods = parse_methods(options.methods, is_gated=is_gated)
    documents = Documents.read(options.calibrate)
    judged = _judged_windows(plan, texts, options)
    calibrate = Windows.of(plan, documents, num_windows=_CALIBRATED, seed=options.seed).calibrate
    return _Judging(plan, options, methods, judged).rows(calibrate, on_progress)


def _judged_windows(plan: ExportPlan, texts: Sequence[str], options: SparsityOptions) -> NDArray[np.int64]:
    """Return windows [W, T] spread evenly over the texts, one behind the other; each begins as the tokenizer begins."""
    tokenizer = tokenizer_of(plan)
    begin = tokenizer.encode("")
    size = min(_WINDOW, plan.architecture.context_length) - len(begin)
    token_ids = [token_id for text in texts for token_id in tokenizer.encode(text, add_special_tokens=False)]
    count = len(token_ids) // size
    if not count or size + len(begin) < options.prompt + 2:
        raise ConfigError(
            f"the text has {len(token_ids)} tokens, and a window has {size}, of which {options.prompt} are dense and "
            "not judged; give a longer text or a smaller --prompt"
        )
    chosen = min(count, max(1, options.max_tokens // (size + len(begin))))
    starts = np.linspace(0, count - 1, chosen).round().astype(int) * size
    return np.array([[*begin, *token_ids[start : start + size]] for start in starts], np.int64)


class _Judging:
    """One table: which methods reach which shares of the work, and what each costs."""

    def __init__(
        self, plan: ExportPlan, options: SparsityOptions, methods: Sequence[SparsityMethod], judged: NDArray[np.int64]
    ) -> None:
        self._plan, self._options, self._judged = plan, options, judged
        self._scope, self._asked = Scope(options.of), [share / 100 for share in options.at]
        layers = range(plan.architecture.dimensions.num_layers)
        products = [products_of(plan.architecture, layer) for layer in layers]
        self._reach = {method: min(method.reach(own, self._scope) for own in products) for method in methods}

    def rows(self, calibrate: NDArray[np.int64], on_progress: Progress) -> list[SparsityRow]:
        wanted = [(method, [at for at in self._asked if at < reach]) for method, reach in self._reach.items()]
        with tempfile.TemporaryDirectory(prefix="skipstone-") as name:
            folder = Path(name)
            streams = run_streams(
                self._plan,
                calibrate,
                self._judged,
                [(method, shares) for method, shares in wanted if shares],
                scope=self._scope,
                num_dense=self._options.prompt,
                folder=folder,
                on_progress=lambda share: on_progress(_OF_LAYERS * share),
            )
            with LayerGraphs(self._plan, open_device(), folder).head() as head:
                qualities = self._qualities(
                    head, streams, lambda share: on_progress(_OF_LAYERS + (1 - _OF_LAYERS) * share)
                )
        found = [self._row(stream, quality) for stream, quality in zip(streams, qualities, strict=False)]
        return [*found, *self._out_of_reach(), *self._others(qualities[len(streams) :])]

    def _qualities(self, head: LayerGraph, streams: Sequence[Stream], on_progress: Progress) -> list[ModelQuality]:
        """Return the quality of each stream, and of all that stands beside them; the first is what they are held to."""
        beside = self._options.beside
        tallies = [Tally() for _ in (*streams, *beside)]
        for number, window in enumerate(self._judged):
            ways = [
                *(self._stream_logits(head, stream.states[number]) for stream in streams),
                *(model.logits(window.tolist(), self._options.prompt) for model in beside),
            ]
            expected: list[Floats] = []
            for way, tally in zip(ways, tallies, strict=True):
                self._add(tally, way, window, expected)
            on_progress((number + 1) / len(self._judged))
        return [tally.quality() for tally in tallies]

    def _add(self, tally: Tally, way: Iterator[Floats], window: NDArray[np.int64], expected: list[Floats]) -> None:
        """Add a window to a tally; the first tally fills `expected` with log probabilities."""
        logits, start = np.concatenate([rows.copy() for rows in way]), self._options.prompt
        is_first = not expected
        for first in range(0, len(logits), _ROWS):
            found = log_softmax(logits[first : first + _ROWS])
            targets = window[start + 1 + first :][: len(found)]
            if is_first:
                expected.append(found.astype(np.float32))
                tally.add(found, targets)
            else:
                tally.add(found, targets, expected[first // _ROWS].astype(np.float64))

    def _stream_logits(self, head: LayerGraph, states: Floats) -> Iterator[Floats]:
        for start in range(self._options.prompt, len(states) - 1, _ROWS):
            yield head.logits(states[None, start : min(start + _ROWS, len(states) - 1)])

    def _row(self, stream: Stream, quality: ModelQuality) -> SparsityRow:
        if stream.method is None:
            return self._found("dense", None, stream.skipped, quality)
        return self._found(stream.method.name, stream.asked, stream.skipped, quality)

    def _found(self, method: str, asked: float | None, skipped: SkippedWork, quality: ModelQuality) -> SparsityRow:
        d = self._plan.architecture.dimensions
        saved, saved_ffn, saved_step = skipped.shares(d.vocab_size * d.hidden_size)
        return SparsityRow(
            method=method, asked=asked, saved=saved, saved_ffn=saved_ffn, saved_step=saved_step, quality=quality
        )

    def _out_of_reach(self) -> Iterator[SparsityRow]:
        for method, reach in self._reach.items():
            for asked in self._asked:
                if asked >= reach:
                    yield SparsityRow(method=method.name, asked=asked, reach=reach)

    def _others(self, qualities: Sequence[ModelQuality]) -> Iterator[SparsityRow]:
        for model, quality in zip(self._options.beside, qualities, strict=True):
            yield self._found(model.name, None, model.skipped, quality)

"""What every exit makes of a text, beside what the full model makes of it: each stage runs once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.call import Part
from skipstone.runtime.depth.calibrate import ERROR_RATE, Calibration, exit_levels
from skipstone.runtime.depth.confidence import CONFIDENCES, SATURATION, confidence_named
from skipstone.runtime.model import Model
from skipstone.runtime.tokenizer import Tokenizer
from skipstone.runtime.workspace import Workspace

__all__ = [
    "LEAST_TOKENS",
    "AtDepth",
    "at_depths",
    "calibrate",
    "depth_hidden",
    "depth_logits",
    "exit_stages",
    "text_windows",
    "windows_of",
]

WINDOW = 512
LEAST_WINDOW = 16
LEAST_TOKENS = 2000
MOST_ROWS = 128
# Logits of all depths are held for this many tokens times words of the vocabulary.
MOST_LOGITS = 2**22


def exit_stages(model: Model) -> Mapping[int, int]:
    """Return the exits: number of layers to number of stages. Raises: ConfigError when the bundle has none."""
    manifest = model.manifest
    ends = {stage.end_layer: number for number, stage in enumerate(manifest.stages, start=1)}
    if not manifest.exits:
        raise ConfigError("the bundle has no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`")
    return {num_layers: ends[num_layers] for num_layers in sorted(manifest.exits)}


def text_windows(model: Model, texts: SequenceOf[str]) -> list[list[int]]:
    """Return the tokens of texts in windows of at most 512 that the model can see; short rests are left out."""
    manifest = model.manifest
    return windows_of(model.tokenizer, texts, most=min(manifest.context_length, manifest.long_rope_from or WINDOW))


def windows_of(tokenizer: Tokenizer, texts: SequenceOf[str], *, most: int) -> list[list[int]]:
    """Return the tokens of texts in windows of at most 512 and `most`; short rests are left out."""
    size = min(WINDOW, most)
    windows = []
    for text in texts:
        token_ids = tokenizer.encode(text)
        windows += [token_ids[start : start + size] for start in range(0, len(token_ids), size)]
    return [window for window in windows if len(window) >= min(LEAST_WINDOW, size)]


@dataclass(frozen=True, slots=True)
class AtDepth:
    """What one depth makes of T tokens: `logits` [T, V] for what follows each, and `hidden` states [T, E].

    `before` are the hidden states that go into the last stage; None where that is the first, which reads tokens.
    Where an exit has an adapter, it stands between `hidden` and `logits`.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]
    before: NDArray[np.float32] | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the measures that this depth allows."""
        return tuple(CONFIDENCES) if self.before is None else (*CONFIDENCES, SATURATION)

    def shown(self, metric: str) -> NDArray[np.float32]:
        """Return what a measure reads: logits [T, V], or hidden states [T, 2, E] around the last stage."""
        if metric != SATURATION:
            return self.logits
        if self.before is None:
            raise ConfigError("saturation compares hidden states around a stage, and the first stage reads tokens")
        return np.stack([self.before, self.hidden], axis=1)


def depth_logits(model: Model, token_ids: SequenceOf[int]) -> Iterator[Mapping[int, NDArray[np.float32]]]:
    """Yield logits [T, V] by number of layers, for what follows each token; pieces of T tokens cover the text.

    The last of them are the full model's, the others the exits'.
    """
    for found in at_depths(model, token_ids):
        yield {num_layers: one.logits for num_layers, one in found.items()}


def depth_hidden(model: Model, token_ids: SequenceOf[int]) -> Iterator[Mapping[int, NDArray[np.float32]]]:
    """Yield hidden states [T, E] by number of layers, as `depth_logits` does: what the exits or their adapters read."""
    for found in at_depths(model, token_ids, head=False):
        yield {num_layers: one.hidden for num_layers, one in found.items()}


def at_depths(model: Model, token_ids: SequenceOf[int], *, head: bool = True) -> Iterator[Mapping[int, AtDepth]]:
    """Yield what each exit, and last the full model, makes of a text, by number of layers; pieces of T tokens cover it.

    Without the `head` the logits are of no row.
    """
    depths = {number: num_layers for num_layers, number in exit_stages(model).items()}
    num_stages = len(model.manifest.stages)
    depths[num_stages] = model.manifest.dimensions.num_layers
    most = MOST_LOGITS // model.manifest.dimensions.vocab_size if head else MOST_ROWS
    most = max(1, min(MOST_ROWS, most))
    workspace = Workspace(model, model.new_cache(context_length=len(token_ids)))
    for start in range(0, len(token_ids), most):
        piece = np.asarray([token_ids[start : start + most]])
        found, before = {}, None
        for end in range(1, num_stages + 1):
            asked = head and end in depths
            rows = range(piece.shape[1] if asked else 0)
            call = workspace.call(piece.shape[1], rows, Part(range(end - 1, end), head=asked, exit=end))
            if before is not None:
                call.hidden[0] = before
            logits, hidden = call.run(piece, np.asarray([start])), call.hidden[0].copy()
            if end in depths:
                found[depths[end]] = AtDepth(logits.copy(), hidden, before)
            before = hidden
        yield found


def calibrate(
    model: Model,
    texts: SequenceOf[str],
    *,
    error_rate: float = ERROR_RATE,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> Calibration:
    """Return from which confidence each exit may be believed, judged by the full model's choices along `texts`.

    All exits and measures together miss a level with a chance of at most `error_rate`. `on_progress` gets the tokens of
    each piece. Raises: ConfigError when the bundle has no exits or the texts are too short.
    """
    exits, windows = exit_stages(model), text_windows(model, texts)
    num_tokens = sum(map(len, windows))
    if num_tokens < LEAST_TOKENS:
        raise ConfigError(
            f"the text has {num_tokens} tokens; a calibration wants at least {LEAST_TOKENS}, better 10,000 or more: "
            "give more or longer files"
        )
    confidences: dict[int, dict[str, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    agrees: dict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    for window in windows:
        for found in at_depths(model, window):
            wanted = found[max(found)].logits.argmax(axis=1)
            for num_layers in exits:
                at = found[num_layers]
                agrees[num_layers].append(at.logits.argmax(axis=1) == wanted)
                for metric in at.metrics:
                    confidences[num_layers][metric].append(confidence_named(metric)(at.shown(metric)))
            on_progress(len(wanted))
    return Calibration(
        weights=model.manifest.files["weights.bin"].sha256,
        recipe=model.manifest.recipe,
        num_tokens=num_tokens,
        error_rate=error_rate,
        exits=tuple(
            exit_levels(
                num_layers,
                {metric: np.concatenate(pieces) for metric, pieces in confidences[num_layers].items()},
                np.concatenate(agrees[num_layers]),
                error_rate=error_rate / len(exits),
                last_stage_from=model.manifest.stages[num_stages - 1].first_layer,
            )
            for num_layers, num_stages in exits.items()
        ),
    )

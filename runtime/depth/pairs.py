"""What every exit says about a text, beside what the full model says: each stage runs once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.call import Part
from skipstone.runtime.depth.calibrate import ERROR_RATE, Calibration, exit_levels
from skipstone.runtime.depth.confidence import CONFIDENCES
from skipstone.runtime.model import Model
from skipstone.runtime.workspace import Workspace

__all__ = ["LEAST_TOKENS", "calibrate", "depth_logits", "exit_stages", "text_windows"]

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
        raise ConfigError(
            "the bundle has no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`, "
            "or decode by auto or plain"
        )
    return {num_layers: ends[num_layers] for num_layers in sorted(manifest.exits)}


def text_windows(model: Model, texts: SequenceOf[str]) -> list[list[int]]:
    """Return the tokens of texts in windows of at most 512 that the model can see; short rests are left out."""
    manifest = model.manifest
    size = min(WINDOW, manifest.context_length, manifest.long_rope_from or WINDOW)
    windows = []
    for text in texts:
        token_ids = model.tokenizer.encode(text)
        windows += [token_ids[start : start + size] for start in range(0, len(token_ids), size)]
    return [window for window in windows if len(window) >= min(LEAST_WINDOW, size)]


def depth_logits(model: Model, token_ids: SequenceOf[int]) -> Iterator[Mapping[int, NDArray[np.float32]]]:
    """Yield logits [T, V] by number of layers, for what follows each token; pieces of T tokens cover the text.

    The last of them are the full model's, the others the exits'.
    """
    stages = {number: num_layers for num_layers, number in exit_stages(model).items()}
    num_stages = len(model.manifest.stages)
    stages[num_stages] = model.manifest.dimensions.num_layers
    most = max(1, min(MOST_ROWS, MOST_LOGITS // model.manifest.dimensions.vocab_size))
    workspace = Workspace(model, model.new_cache(context_length=len(token_ids)))
    for start in range(0, len(token_ids), most):
        piece = np.asarray([token_ids[start : start + most]])
        found, hidden = {}, None
        first = 0
        for end, num_layers in sorted(stages.items()):
            call = workspace.call(piece.shape[1], range(piece.shape[1]), Part(range(first, end), exit=end))
            if hidden is not None:
                call.hidden[:] = hidden
            found[num_layers] = call.run(piece, np.asarray([start])).copy()
            hidden, first = call.hidden.copy(), end
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
    confidences: dict[tuple[int, str], list[NDArray[np.float64]]] = defaultdict(list)
    agrees: dict[int, list[NDArray[np.bool_]]] = defaultdict(list)
    for window in windows:
        for logits in depth_logits(model, window):
            wanted = logits[max(logits)].argmax(axis=1)
            for num_layers in exits:
                agrees[num_layers].append(logits[num_layers].argmax(axis=1) == wanted)
                for metric, confidence in CONFIDENCES.items():
                    confidences[num_layers, metric].append(confidence(logits[num_layers]))
            on_progress(len(wanted))
    return Calibration(
        weights=model.manifest.files["weights.bin"].sha256,
        recipe=model.manifest.recipe,
        num_tokens=num_tokens,
        error_rate=error_rate,
        exits=tuple(
            exit_levels(
                num_layers,
                {metric: np.concatenate(confidences[num_layers, metric]) for metric in CONFIDENCES},
                np.concatenate(agrees[num_layers]),
                error_rate=error_rate / len(exits),
            )
            for num_layers in exits
        ),
    )

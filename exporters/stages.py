"""Where a model is cut into stages, and the graph of each stage and of the head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import StageEntry

__all__ = ["parse_cuts", "parse_draft_head", "parse_exits", "plan_stages"]

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


def parse_exits(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of layers after which the model may stop: `none`, `auto` (quarters) or numbers like `4,8`."""
    if text == "none":
        return ()
    if text == "auto":
        return tuple(sorted({num_layers * quarter // 4 for quarter in (1, 2, 3)} - {0, num_layers}))
    return _layer_numbers(text, num_layers, option="--exits", word="auto", place="an exit")


def parse_cuts(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of layers after which stages end, exit or not: `none`, `each` or numbers like `3,5`."""
    if text == "none":
        return ()
    if text == "each":
        return tuple(range(1, num_layers))
    return _layer_numbers(text, num_layers, option="--cuts", word="each", place="a cut")


def _layer_numbers(text: str, num_layers: int, *, option: str, word: str, place: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(f"{option} takes none, {word} or layer numbers like 4,8, not '{text}'") from error
    if num_layers == 1:
        raise ConfigError(f"{option} {text}: this model has one layer, so there is no place for {place}")
    if not 0 < found[0] <= found[-1] < num_layers:
        raise ConfigError(f"{option} {text}: {place} lies between layer 1 and {num_layers - 1} of this model")
    return found


def plan_stages(num_layers: int, exits: Sequence[int], cuts: Sequence[int] = ()) -> tuple[StageEntry, ...]:
    """Return the stages that end at each exit and each cut; without any the only one goes all the way to the logits."""
    borders = [0, *sorted({*exits, *cuts}), num_layers]
    return tuple(
        StageEntry(
            file=f"stage-{index:02}.onnx",
            first_layer=first,
            end_layer=end,
            embeds=index == 0,
            ends_in_logits=len(borders) == 2,
        )
        for index, (first, end) in enumerate(itertools.pairwise(borders))
    )


AUTO_SHARE: Final = 4  # of the vocabulary: a quarter
MULTIPLE: Final = 64


def parse_draft_head(wanted: str | int, *, vocab_size: int, num_stages: int) -> int:
    """Return how many of the first tokens the draft head knows: `auto` (a quarter of them), or a number.

    Raises: ConfigError where no drafter could use it, and for a number that is not part of the vocabulary.
    """
    if num_stages == 1:
        raise ConfigError(
            f"--draft-head {wanted} is for drafts from some of the model's own layers, and they are one piece; "
            "add --exits auto or --cuts each, or leave it out"
        )
    if wanted == "auto":
        num_first = max(round(vocab_size / AUTO_SHARE / MULTIPLE), 1) * MULTIPLE
    else:
        try:
            num_first = int(wanted)
        except ValueError as error:
            raise ConfigError(f"--draft-head takes auto or a number of tokens, not '{wanted}'") from error
    if not 0 < num_first < vocab_size:
        raise ConfigError(
            f"--draft-head {wanted}: a part of the vocabulary is wanted, 1 to {vocab_size - 1} of {vocab_size} tokens"
        )
    return num_first

"""Where a model is cut into stages, and what a head for drafts knows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import StageEntry

__all__ = ["check_draft_head", "check_layers", "parse_cuts", "parse_draft_head", "parse_exits", "plan_stages"]

AUTO_SHARE: Final = 4  # of the vocabulary: a quarter
MULTIPLE: Final = 64


def check_layers(text: str, *, option: str, word: str) -> None:
    """Raise ConfigError unless the text is `none`, the option's `word`, or numbers apart by commas."""
    if text not in ("none", word):
        _numbers(text, option=option, word=word)


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
    layers = _numbers(text, option=option, word=word)
    if num_layers == 1:
        raise ConfigError(f"{option} {text}: this model has one layer, so there is no place for {place}")
    if not 0 < layers[0] <= layers[-1] < num_layers:
        raise ConfigError(f"{option} {text}: {place} lies between layer 1 and {num_layers - 1} of this model")
    return layers


def _numbers(text: str, *, option: str, word: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(f"{option} takes none, {word} or layer numbers like 4,8, not '{text}'") from error


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


def check_draft_head(size: str | int) -> None:
    """Raise ConfigError unless the size of the draft head is `auto` or a number."""
    if size != "auto":
        try:
            int(size)
        except ValueError as error:
            raise ConfigError(f"--draft-head takes auto or a number of tokens, not '{size}'") from error


def parse_draft_head(size: str | int, *, vocab_size: int, num_stages: int) -> int:
    """Return how many of the first tokens the draft head knows: `auto` (a quarter of them), or a number.

    Raises: ConfigError where no drafter could use it, and for a number that is not part of the vocabulary.
    """
    check_draft_head(size)
    if num_stages == 1:
        raise ConfigError(
            f"--draft-head {size} is for drafts from some of the model's own layers, and they are one piece; "
            "add --exits auto or --cuts each, or leave it out"
        )
    num_first = max(round(vocab_size / AUTO_SHARE / MULTIPLE), 1) * MULTIPLE if size == "auto" else int(size)
    if not 0 < num_first < vocab_size:
        raise ConfigError(
            f"--draft-head {size}: a part of the vocabulary is wanted, 1 to {vocab_size - 1} of {vocab_size} tokens"
        )
    return num_first

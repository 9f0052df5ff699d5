"""A head for drafts: logits for the most frequent tokens, and for those that the text has already.

In BPE vocabularies ids are given in the order of merges, so that the first are the most frequent.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from skipstone.errors import ConfigError
from skipstone.exporters.architecture import Architecture
from skipstone.exporters.blocks import Blocks
from skipstone.exporters.graph import FLOAT, GraphPen
from skipstone.exporters.model_weights import ModelWeights
from skipstone.exporters.weights import WeightFile
from skipstone.quant import Recipe

__all__ = ["build_draft_head", "parse_draft_head"]

INT64 = ir.DataType.INT64

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


def build_draft_head(
    architecture: Architecture, weights: ModelWeights, recipe: Recipe, file: WeightFile, num_first: int
) -> ir.Model:
    """Return the graph from the end of any stage to some logits; it reads the head's bytes and adds none to `file`.

    Inputs: hidden [B, T, E], rows [R], extra_ids [P]. Outputs: logits [R, `num_first`] of the first tokens of the
    vocabulary, extra_logits [R, P] of those with the ids. The head must be stored by row; see `build_head`.
    """
    pen = GraphPen("draft-head", file)
    hidden = pen.input("hidden", FLOAT, ("B", "T", architecture.dimensions.hidden_size))
    rows, extra_ids = pen.input("rows", INT64, ("R",)), pen.input("extra_ids", INT64, ("P",))
    logits, extra = Blocks(pen, architecture, weights, recipe).draft_head(hidden, rows, extra_ids, num_first)
    pen.output(logits, "logits", FLOAT, ("R", num_first))
    pen.output(extra, "extra_logits", FLOAT, ("R", "P"))
    return pen.model()

"""A large head that is looked up by row too is packed in pieces of rows; the logits are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from conftest import MakeCheckpoint

from skipstone.api import export
from skipstone.runtime.engine import Draft, Model


def logits(bundle: Path) -> np.ndarray:
    sequence = Model.open(bundle).new_sequence()
    sequence.append([3, 4, 5, 6])
    return np.array(sequence.extend(Draft.empty()))


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_pieces_give_the_logits_of_the_whole(
    precision: str, make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=True)
    whole = export(checkpoint, tmp_path / "whole", precision=precision)
    monkeypatch.setattr("skipstone.exporters.graph.linear._PIECE_BYTES", 1 << 10)
    pieces = export(checkpoint, tmp_path / "pieces", precision=precision)
    graph = ir.load(pieces / "stage-00.onnx").graph
    parts = [node for node in graph if node.op_type == "MatMulNBits" and ".rows_" in (node.inputs[1].name or "")]
    assert len(parts) == 2  # of rows 128 to 255, and of what is left
    assert (pieces / "weights.bin").read_bytes() == (whole / "weights.bin").read_bytes()
    np.testing.assert_array_equal(logits(pieces), logits(whole))

"""An export with graphs for prompts says how far they move answers, and a model reads by them where that is little."""

from __future__ import annotations

from pathlib import Path

import pytest

import skipstone
from skipstone.errors import ConfigError
from skipstone.runtime.engine import MOST_PREFILL_KL, prefill_kl


def test_the_export_measures_and_the_model_follows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = skipstone.export(tiny_checkpoint, tmp_path / "bundle", precision="int8", prefill="int8")
    model = skipstone.load(folder).runtime
    kl = prefill_kl(model.manifest)
    assert kl is not None and 0 < kl < 0.5
    assert model.reads_apart == (kl <= MOST_PREFILL_KL)
    assert not skipstone.load(folder, prefill="same").runtime.reads_apart
    assert skipstone.load(folder, prefill="int8").generate("a b c d", max_new_tokens=3).token_ids


def test_a_bundle_without_such_graphs_refuses_in_one_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = skipstone.export(tiny_checkpoint, tmp_path / "bundle", precision="int8")
    assert not skipstone.load(folder).runtime.reads_apart
    with pytest.raises(ConfigError, match="make one with `skipstone export CHECKPOINT -o OUT --prefill int8"):
        skipstone.load(folder, prefill="int8")

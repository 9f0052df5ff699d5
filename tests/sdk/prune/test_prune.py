"""Pruning: the search finds what costs least, goes on where it was interrupted, and says what was lost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.api import plan
from skipstone.calibrate import Documents
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.evaluate import log_softmax
from skipstone.exporters import ExportPlan
from skipstone.exporters.transforms import DropBlocks, DropLayers, SplitLayers
from skipstone.prune import find_pruning
from skipstone.prune.amount import Amount
from skipstone.prune.reader import Reader
from skipstone.prune.search import Blocks, SearchPlan, search
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=9), st.integers(1, 4), st.integers(0, 5))
def test_blocks_that_cost_apart_are_those_that_cost_least(costs: list[float], count: int, seed: int) -> None:
    def judge(choices: Sequence[Blocks], is_close: bool) -> list[float]:
        return [sum(costs[block] for block in choice) for choice in choices]

    course = SearchPlan(blocks=tuple(range(len(costs))), count=min(count, len(costs) - 1), seed=seed)
    found = search(course, judge)
    assert len(set(found)) == course.count
    assert judge([found], True)[0] == pytest.approx(sum(sorted(costs)[: course.count]))


def test_the_search_leaves_what_looks_best_alone() -> None:
    """Blocks 1 and 2 cost little alone and much together."""

    def judge(choices: Sequence[Blocks], is_close: bool) -> list[float]:
        return [
            sum(0.1 if block in (1, 2) else 0.2 + block / 100 for block in choice) + 5 * ({1, 2} <= {*choice})
            for choice in choices
        ]

    found = search(SearchPlan(blocks=tuple(range(1, 9)), count=2), judge)
    best = min(itertools.combinations(range(1, 9), 2), key=lambda choice: judge([choice], True)[0])
    assert judge([found], True) == judge([best], True)


@pytest.mark.parametrize(
    ("amount", "count"),
    [
        ("1layer", 1),
        ("2layers", 2),
        (" 3 layers ", 3),
        ("20%", 2),
        ("1%", 1),
        ("80%", 8),
        ("blocks:3", 3),
        ("blocks:10%", 2),
        ("blocks:80%", 16),
    ],
)
def test_amounts(amount: str, count: int) -> None:
    assert Amount.parse(amount).count(10) == count


@pytest.mark.parametrize(
    "amount",
    ["", "2", "x%", "-1layers", "0layers", "0%", "9layers", "90%", "blocks:0", "blocks:17", "blocks:", "2blocks"],
)
def test_other_amounts_are_refused(amount: str) -> None:
    with pytest.raises(ConfigError, match="--prune"):
        Amount.parse(amount).count(10)


@pytest.mark.parametrize("amount", ["width:0%", "width:25", "width:91%", "width:"])
def test_widths_of_nothing_or_nearly_all_are_refused(amount: str) -> None:
    with pytest.raises(ConfigError, match="--prune"):
        Amount.parse(amount)


def test_losses_are_those_of_logits_without_the_layers(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    window = np.random.default_rng(1).integers(3, 300, 30).tolist()
    reader = Reader(Model.open(make_bundle(tiny_checkpoint, cuts="each")), [window])
    whole, fewer = (
        log_softmax(_logits(make_bundle(tiny_checkpoint, transforms=transforms), window))
        for transforms in ((), (DropLayers((2,)),))
    )
    expected = float((np.exp(whole) * (whole - fewer)).sum(axis=1).mean())
    (rough, nothing) = reader.losses([(2,), ()], num_windows=4)
    assert (rough, nothing) == (pytest.approx(expected, rel=1e-3), pytest.approx(0, abs=1e-6))
    exact = reader.loss((2,))
    assert exact.kl == pytest.approx(expected, rel=1e-4)
    places = np.arange(29), window[1:]
    assert exact.perplexity == pytest.approx(np.exp(-fewer[:-1][places].mean()), rel=1e-4)
    assert exact.perplexity_before == pytest.approx(np.exp(-whole[:-1][places].mean()), rel=1e-4)


def test_losses_without_blocks_are_those_of_a_model_that_lacks_them(
    tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    window = np.random.default_rng(1).integers(3, 300, 30).tolist()
    split = make_bundle(tiny_checkpoint, cuts="each", transforms=(SplitLayers(),))
    reader = Reader(Model.open(split), [window])
    fewer = make_bundle(tiny_checkpoint, transforms=(DropBlocks(attention=(1,), ffn=(2,)),))
    whole, pruned = (log_softmax(_logits(bundle, window)) for bundle in (make_bundle(tiny_checkpoint), fewer))
    expected = float((np.exp(whole) * (whole - pruned)).sum(axis=1).mean())
    assert reader.loss((2, 5)).kl == pytest.approx(expected, rel=1e-4)


def _logits(bundle: Path, window: list[int]) -> np.ndarray:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(window[:1])
    return sequence.extend(Draft.chain(window[1:], source="test"))


def test_an_interrupted_search_goes_on_and_finds_the_same(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    whole = plan(tiny_checkpoint, precision="int8")
    assert isinstance(whole, ExportPlan)
    shares: list[float] = []

    def interrupt(share: float) -> None:
        if share > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_pruning(whole, "1layer", Documents.read("auto"), on_progress=interrupt)
    (kept,) = (tmp_path / "prunings").iterdir()
    assert kept.read_text(encoding="utf-8").count("rough") >= 1
    found = find_pruning(whole, "1layer", Documents.read("auto"), on_progress=shares.append)
    again = find_pruning(whole, "1layer", Documents.read("auto"))
    assert found == again and found.transform in (DropLayers((1,)), DropLayers((2,)))
    assert shares == sorted(shares) and shares[-1] == 1
    assert not [*(tmp_path / "prunings").iterdir()]


def test_export_prunes_and_says_what_it_costs(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = cli("export", tiny_checkpoint, "-o", out, "--precision", "int8", "--prune", "30%")
    assert outcome.code == 0, outcome.err
    assert "pruned layers" in outcome.err and " before, " in outcome.err and "KL " in outcome.err
    assert Bundle.open(out).manifest.dimensions.num_layers == 3
    refused = cli("export", tiny_checkpoint, "-o", tmp_path / "other", "--prune", "3layers")
    assert refused.code == 2 and "the first and the last stay" in refused.err


def test_export_leaves_out_single_blocks(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = cli("export", tiny_checkpoint, "-o", out, "--precision", "int8", "--prune", "blocks:3")
    assert outcome.code == 0, outcome.err
    assert "pruned " in outcome.err and "% of the weights" in outcome.err and "KL " in outcome.err
    manifest = Bundle.open(out).manifest
    assert len(manifest.cache) < 4 or manifest.files["weights.bin"].size > 0
    text = cli("generate", out, "-p", "One", "--max-new-tokens", "4")
    assert text.code == 0, text.err


def test_blocks_of_parallel_layers_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    whole = plan(make_checkpoint("falcon", hidden_size=64), precision="int8")
    with pytest.raises(UnsupportedModel, match="prune whole layers"):
        find_pruning(whole, "blocks:1", Documents.read("auto"))

"""Activation sparsity: nothing cut is the dense model, what is skipped is what was asked for, thresholds are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import CORPUS, MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.api import plan
from skipstone.calibrate import LayerGraph, LayerGraphs
from skipstone.devices import open_device
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportPlan
from skipstone.runtime.engine import Model
from skipstone.sparsity import SparsityOptions, besides, judge_sparsity
from skipstone.sparsity.greedy import greedy_path, shares_at
from skipstone.sparsity.layer import Scope, SparseLayer
from skipstone.sparsity.masks import INNER
from skipstone.sparsity.methods import METHODS, Chess, Larosa, SparsityMethod, Teal
from skipstone.sparsity.products import Product, products_of, work_of
from skipstone.sparsity.seen import Magnitudes, Seen, dense_rows, no_cuts
from skipstone.sparsity.work import SkippedWork

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases of q, k and v": ("qwen2", {}),
    "matrices in one, heads that are filled up": ("phi3", {"hidden_size": 48, "num_attention_heads": 4}),
    "no gates, matrices the other way round": ("gpt2", {}),
    "norms before and behind": ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 5}),
    "attention beside the FFN": ("gpt_neox", {"hidden_size": 64}),
}
STATES = np.random.default_rng(0).normal(size=(2, 96, 52)).astype(np.float32)


def planned(checkpoint: Path) -> ExportPlan:
    made = plan(checkpoint, precision="fp32")
    assert isinstance(made, ExportPlan)
    return made


@contextmanager
def layer_graph(
    plan: ExportPlan, method: SparsityMethod, folder: Path
) -> Iterator[tuple[LayerGraph, Sequence[Product]]]:
    products = products_of(plan.architecture, 1)
    with LayerGraphs(plan, open_device(), folder).layer(1, change=method.masks(products, Scope())) as graph:
        yield graph, products


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(CORPUS * 30), encoding="utf-8")
    return path


def states_for(plan: ExportPlan) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 96, plan.architecture.dimensions.hidden_size)).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_cut_a_layer_is_the_dense_one(
    family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model_type, config = FAMILIES[family]
    model = planned(make_checkpoint(model_type, **config))
    states = states_for(model)
    with LayerGraphs(model, open_device(), tmp_path).layer(1) as graph:
        expected = graph.states(states)
    with layer_graph(model, Teal(), tmp_path) as (graph, products):
        found = graph.read(["hidden_out"], states, no_cuts(products) | dense_rows(96, 0))["hidden_out"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotation_alone_changes_nothing(family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model_type, config = FAMILIES[family]
    model, method = planned(make_checkpoint(model_type, **config)), Larosa()
    states = states_for(model)
    with LayerGraphs(model, open_device(), tmp_path).layer(1) as graph:
        expected = graph.states(states)
    with layer_graph(model, method, tmp_path) as (graph, products):
        counts = method.counted(products, Scope())
        rng, given_inputs = np.random.default_rng(1), dict[str, np.ndarray]()
        for name, count in counts.items():
            given_inputs[f"kept_{name}"] = np.array([count])
            if name not in ("o", "down"):
                given_inputs[f"turn_{name}"] = np.linalg.qr(rng.normal(size=(count, count)))[0].astype(np.float32)
        found = graph.read(["hidden_out"], states, given_inputs | dense_rows(96, 0))["hidden_out"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_only_the_largest_rotated_inputs_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, method = planned(tiny_checkpoint), Larosa()
    with layer_graph(model, method, tmp_path) as (graph, products):
        counts = method.counted(products, Scope())
        given_inputs = {f"kept_{name}": np.array([7]) for name in counts}
        turns = {f"turn_{name}": np.eye(52, dtype=np.float32) for name in ("qkv", "gate_up")}
        outputs = [f"active_{name}" for name in counts]
        found = graph.read(outputs, STATES, {**given_inputs, **turns, **dense_rows(96, 10)})
    assert all((active[:, 10:] == 7).all() and (active[:, :10] > 40).all() for active in found.values())


def test_a_threshold_is_the_quantile_of_a_known_distribution() -> None:
    values = np.random.default_rng(0).laplace(size=(2000, 50)).astype(np.float32)
    sizes = Magnitudes.of(values, 50)
    for share in (0.25, 0.5, 0.9):
        assert sizes.cut(share) == pytest.approx(-np.log(1 - share), rel=0.02)  # where Laplace's law has that share
    assert sizes.cut(0) == 0 and sizes.cut(1) == float("inf")


def test_channels_that_only_fill_up_heads_are_no_zeros_of_the_text() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 40)).astype(np.float32)
    filled = np.pad(values, [(0, 0), (0, 24)])
    assert Magnitudes.of(filled, 40).cut(0.5) == Magnitudes.of(values, 40).cut(0.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("of", ["layers", "ffn"])
def test_what_is_skipped_is_near_what_was_asked_for(
    name: str, of: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model, method, scope = planned(make_checkpoint(intermediate_size=160)), METHODS[name](), Scope(of)
    products = products_of(model.architecture, 1)
    graphs = LayerGraphs(model, open_device(), tmp_path)
    with graphs.layer(1, change=Teal().masks(products, scope)) as graph:
        seen = Seen.on(graph, products, STATES)
    asked = [share * method.reach(products, scope) for share in (0.1, 0.3, 0.6)]
    with graphs.layer(1, change=method.masks(products, scope)) as graph:
        layer = SparseLayer(products, scope, seen, graph, STATES[:1])
        counts = method.counted(products, scope)
        for share, inputs in zip(asked, method.settings(layer, asked), strict=True):
            found = graph.read([f"active_{name}" for name in counts], STATES, {**inputs, **dense_rows(96, 0)})
            active = {name: float(found[f"active_{name}"].mean()) / count for name, count in counts.items()}
            skipped = SkippedWork()
            skipped.add(products, active, method.added(products, scope))
            saved, saved_ffn, _ = skipped.shares(head=0)
            assert (saved if of == "layers" else saved_ffn) == pytest.approx(share, abs=0.05)


def test_chess_keeps_the_gates_that_are_multiplied_with_much(tiny_checkpoint: Path, tmp_path: Path) -> None:
    products = products_of(planned(tiny_checkpoint).architecture, 1)
    rng = np.random.default_rng(0)
    values = {product.matrix: rng.normal(size=(100, product.num_inputs)) for product in products}
    values |= {INNER: np.ones((100, 76)), "up_values": np.ones((100, 76)) * np.linspace(1, 2, 76)}
    seen = Seen(values={name: x.astype(np.float32) for name, x in values.items()}, second_moments={})
    with layer_graph(planned(tiny_checkpoint), Chess(), tmp_path) as (graph, _):
        layer = SparseLayer(products, Scope("ffn"), seen, graph, STATES)
        (inputs,) = Chess().settings(layer, [0.3])
    cuts = np.asarray(inputs[f"cut_{INNER}"])
    pruned = cuts > 1  # all gates are 1
    assert pruned.tolist() == sorted(pruned, reverse=True) and pruned.mean() == pytest.approx(0.45, abs=0.02)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=6), st.floats(0.05, 0.95))
def test_greedy_shares_save_what_is_asked_and_spare_what_is_dear(costs: list[float], saved: float) -> None:
    names = [str(number) for number in range(len(costs))]
    works = dict.fromkeys(names, 1 / len(names))

    def error(shares: Any) -> float:
        return sum(cost * shares[name] ** 2 for name, cost in zip(names, costs, strict=True))

    path = greedy_path(works, error, saved)
    shares = shares_at(path, works, saved)
    assert sum(shares[name] * works[name] for name in names) == pytest.approx(saved, abs=1e-6)
    order = sorted(names, key=lambda name: costs[int(name)])
    found = [shares[name] for name in order]
    assert all(first >= second - 0.11 for first, second in pairwise(found))


def test_zeros_that_a_gate_makes_spare_the_row_of_up(tiny_checkpoint: Path) -> None:
    products = products_of(planned(tiny_checkpoint).architecture, 0)
    skipped = SkippedWork()
    skipped.add(products, {INNER: 0.25, "down": 0.25}, {})
    saved, saved_ffn, _ = skipped.shares(head=0)
    assert saved_ffn == pytest.approx(0.75 * 2 / 3)
    assert saved == pytest.approx(0.75 * work_of(products, ("up", "down")) / work_of(products))


def test_the_table_has_the_dense_model_each_method_and_a_bundle_beside(
    make_bundle: MakeBundle, tiny_checkpoint: Path, text_file: Path
) -> None:
    bundle = make_bundle(tiny_checkpoint)
    model = planned(tiny_checkpoint)
    beside = besides(bundle, model.architecture)
    options = SparsityOptions(at=(5, 60), max_tokens=512, prompt=100, calibrate=text_file, beside=beside)
    dense, *rows = judge_sparsity(model, CORPUS * 30, options)
    by_name = {(row.method, row.asked): row for row in rows}
    assert dense.quality is not None and dense.quality.kl is None and dense.saved == 0
    fp32 = by_name[bundle.name, None].quality
    assert fp32 is not None and fp32.kl is not None and fp32.kl < 1e-6 and fp32.top1_agreement == 1
    for name in METHODS:
        little, much = by_name[name, 0.05], by_name[name, 0.6]
        assert little.quality is not None and little.quality.kl is not None
        if name == "cats":  # there is more than gates can spare
            assert much.quality is None and much.reach is not None and much.reach < 0.6
        else:
            assert much.quality is not None and much.quality.kl is not None
            assert little.quality.kl < much.quality.kl


def test_carved_experts_stand_in_the_same_table(carved: Model, tiny_checkpoint: Path, text_file: Path) -> None:
    model = planned(tiny_checkpoint)
    beside = besides(carved.bundle.path, model.architecture)
    options = SparsityOptions(methods="cats", at=(20,), of="ffn", max_tokens=256, calibrate=text_file, beside=beside)
    _, _, dense, half, most = judge_sparsity(model, CORPUS * 30, options)
    assert dense.quality is not None and dense.quality.kl is not None and dense.quality.kl < 1e-5
    router = 3 * 2 / (3 * 76)  # three experts to choose from, by gate and up of a neuron each
    assert half.saved_ffn == pytest.approx(0.5 - router) and most.saved_ffn == pytest.approx(0.25 - router)
    assert half.quality is not None and half.quality.kl is not None
    assert most.quality is not None and most.quality.kl is not None
    assert 1e-4 < most.quality.kl < half.quality.kl


def test_a_relu_checkpoint_shows_its_own_zeros(make_checkpoint: MakeCheckpoint, text_file: Path) -> None:
    model = planned(make_checkpoint(hidden_act="relu"))
    dense, _ = judge_sparsity(model, CORPUS * 30, SparsityOptions(methods="cats", at=(20,), calibrate=text_file))
    assert 0.2 < dense.saved_ffn < 0.5  # about half of the gates are 0, which spares two of three matrices


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"methods": "teal,foo"}, "--methods takes teal, cats, chess, larosa; got 'foo'"),
        ({"at": (0,)}, "--at takes percents between 0 and 100; got 0"),
        ({"of": "head"}, "--of takes layers or ffn"),
        ({"prompt": 0}, "--prompt takes 1 to 254"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        judge_sparsity(planned(tiny_checkpoint), CORPUS, SparsityOptions(**options))


def test_what_has_no_gates_or_is_a_mixture_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(ConfigError, match="cats cuts the gates"):
        judge_sparsity(planned(make_checkpoint("gpt2")), CORPUS, SparsityOptions(methods="cats"))
    with pytest.raises(UnsupportedModel, match="experts"):
        judge_sparsity(planned(make_checkpoint("mixtral", num_local_experts=4)), CORPUS, SparsityOptions())


def test_the_command_prints_a_table_and_json(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(CORPUS * 30), encoding="utf-8")
    command = ["eval", "sparsity", str(tiny_checkpoint), "--text", str(text), "--at", "30", "--methods", "cats"]
    command += ["--max-tokens", "256"]
    assert "| cats " in cli(*command).out
    record = json.loads(cli(*command, "--json").out)
    assert [row["method"] for row in record["rows"]] == ["dense", "cats"] and record["prompt"] == 64

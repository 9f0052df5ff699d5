"""Graphs of variants in a running model: which are opened, when, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters import ExportOptions, plan_export
from skipstone.exporters.graph import GraphVariant, OrtKernels
from skipstone.runtime.bundle import Bundle, Manifest
from skipstone.runtime.engine import Feed, Model, Part
from skipstone.runtime.engine.sessions import Sessions


class Loud(OrtKernels):
    """Doubles the activations of FFNs, so that a graph differs and can be told by what it gives."""

    def times_sigmoid(self, x: ir.Value, factor: float) -> ir.Value:
        twice = super().times_sigmoid(x, factor)
        return self.pen.op("Add", twice, twice)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle of five stages and a head with the variants `loud`, which differs, and `same`, which does not."""
    plan = plan_export(tiny_checkpoint, ExportOptions.of(precision="fp32", exits="2", cuts="each"))
    folder = tmp_path_factory.mktemp("variants") / "bundle"
    replace(plan, variants=(GraphVariant(kind="loud", kernels=Loud), GraphVariant(kind="same"))).write(folder)
    return Bundle.open(folder)


def test_only_graphs_that_differ_are_written_and_weights_once(bundle: Bundle, tiny_stages: Model) -> None:
    manifest = bundle.manifest
    stages = [stage.file for stage in manifest.stages]
    assert manifest.variants == {
        "loud": {file: file.replace(".onnx", ".loud.onnx") for file in stages},
        "same": {},
    }
    assert manifest.files["weights.bin"] == tiny_stages.manifest.files["weights.bin"]
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_variant_is_opened_when_first_asked_for_and_gives_what_its_graphs_say(bundle: Bundle) -> None:
    model = Model(bundle, open_device())
    workspace, feed = model.new_workspace(context_length=8), Feed.of([5, 6, 7], rows=range(3))
    opened = len(model.sessions._opened)
    plain = workspace.call(feed).run(feed).copy()
    assert len(model.sessions._opened) == opened
    loud = workspace.call(feed, Part(variant="loud")).run(feed).copy()
    assert len(model.sessions._opened) == opened + len(bundle.manifest.stages)
    assert np.abs(loud - plain).max() > 1e-3
    same = workspace.call(feed, Part(variant="same")).run(feed)
    assert np.array_equal(same, plain)
    assert len(model.sessions._opened) == opened + len(bundle.manifest.stages)


def test_a_variant_that_the_bundle_lacks_is_refused_in_one_line(bundle: Bundle, tiny_stages: Model) -> None:
    with pytest.raises(ConfigError, match=r"no sparse graphs \(it has loud, same\)"):
        Sessions(bundle, open_device()).of(Part(variant="sparse"))
    with pytest.raises(ConfigError, match=r"no sparse graphs \(it has none\)"):
        tiny_stages.sessions.of(Part(variant="sparse"))


def test_a_type_of_cache_that_the_bundle_lacks_is_refused_in_one_line(bundle: Bundle) -> None:
    with pytest.raises(
        ConfigError,
        match="a cache of fp32, not of int8; make one with `skipstone export CHECKPOINT -o OUT --cache int8",
    ):
        Model.open(bundle.path, cache="int8")
    assert Model.open(bundle.path, cache="fp32").sessions.cache_type == "float32"

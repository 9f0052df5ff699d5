"""The contract of transforms, on two of a user's own: both leave what the model computes as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from lora_adapters import saved, trained
from numpy.typing import NDArray

import skipstone
from skipstone.api import plan
from skipstone.errors import ConfigError, UnsupportedModel
from skipstone.exporters import ExportOptions, plan_export
from skipstone.exporters.checkpoints import TensorSource, open_checkpoint
from skipstone.exporters.families import Architecture, Experts, read_architecture
from skipstone.exporters.transforms import ChangedTensors, FfnWidth, Lora, Transform, apply
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model

Floats = NDArray[np.float32]
TOKEN_IDS = np.random.default_rng(0).integers(3, 300, size=12).tolist()
GAIN, GATE, UP = (
    f"model.layers.{{}}.{part}.weight" for part in ("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj")
)


@dataclass(frozen=True)
class FoldGains(Transform):
    """Multiplies the gain in front of each FFN into the matrices behind it; then the gain is one."""

    def requires(self, architecture: Architecture, tensors: TensorSource) -> None:
        if architecture.family != "llama":
            raise UnsupportedModel(f"gains of a {architecture.family} are not folded")

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        return architecture, FoldedTensors(tensors)

    def ensures(self, architecture: Architecture, tensors: TensorSource) -> None:
        gain = tensors.read(GAIN.format(0), tensors.shape(GAIN.format(0)))
        if (gain != 1).any():
            raise UnsupportedModel("a gain was left over")


class FoldedTensors(ChangedTensors):
    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        values = super().read(name, shape)
        for layer in range(4):
            if name == GAIN.format(layer):
                return np.ones_like(values)
            if name in (GATE.format(layer), UP.format(layer)):
                gain = GAIN.format(layer)
                return values * super().read(gain, self.shape(gain))
        return values


@dataclass(frozen=True)
class CarveExperts(Transform):
    """Makes experts of the channels of each FFN; as all are active, the model computes what it did."""

    num_experts: int = 4

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        d = architecture.dimensions
        size = d.intermediate_size // self.num_experts
        names = {name: text for name, text in architecture.names.items() if name not in ("gate", "up", "down")}
        names["router"] = "carved.{layer}.router"
        names |= {f"expert_{part}": f"carved.{{layer}}.{{expert}}.{part}" for part in ("gate", "up", "down")}
        experts = Experts(
            num_experts=self.num_experts,
            num_active=self.num_experts,
            intermediate_size=size,
            normalized=True,
            layers=(True,) * d.num_layers,
        )
        carved = replace(architecture, names=names, experts=experts)
        return carved, CarvedTensors(tensors, architecture, carved)

    def settings(self, config: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
        raise UnsupportedModel("transformers has no carved Llama; leave --check out")


class CarvedTensors(ChangedTensors):
    def __init__(self, source: TensorSource, dense: Architecture, carved: Architecture) -> None:
        super().__init__(source)
        self.dense, self.shapes = dense, carved.tensor_shapes()

    def names(self) -> frozenset[str]:
        return frozenset(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        kind, _, place = name.partition(".")
        if kind != "carved":
            return super().read(name, shape)
        layer, *expert, part = place.split(".")
        if part == "router":  # equal weights for all
            return np.zeros(shape, np.float32)
        dense = self.dense.names[part].format(layer=layer)
        values = super().read(dense, self.dense.tensor_shapes()[dense])
        axis, number = int(part == "down"), int(expert[0])
        channels = np.arange(shape[axis]) + number * shape[axis]
        carved = np.take(values, channels, axis=axis)
        return carved * np.float32(self.dense.dimensions.intermediate_size // shape[1]) if part == "down" else carved


def logits_of(bundle: Path) -> Floats:
    sequence = Model.open(bundle).new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(Draft.chain(TOKEN_IDS[1:], source="test"))


@pytest.mark.parametrize("transform", [FoldGains(), CarveExperts()])
def test_an_object_of_a_user_changes_the_weights_and_not_the_logits(
    transform: Transform, tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = skipstone.export(tiny_checkpoint, tmp_path / "out", precision="fp32", exits="2", transforms=[transform])
    whole = make_bundle(tiny_checkpoint)
    assert (bundle / "weights.bin").read_bytes() != (whole / "weights.bin").read_bytes()
    np.testing.assert_allclose(logits_of(bundle), logits_of(whole), rtol=0, atol=1e-4)
    assert (Bundle.open(bundle).manifest.exact) == isinstance(transform, FoldGains)


def test_a_transform_goes_with_a_check_where_transformers_has_such_a_model(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    skipstone.export(tiny_checkpoint, tmp_path / "folded", precision="fp32", transforms=[FoldGains()], check=True)
    with pytest.raises(UnsupportedModel, match="transformers has no carved Llama"):
        skipstone.export(tiny_checkpoint, tmp_path / "carved", transforms=[CarveExperts()], check=True)


def test_transforms_run_in_their_order_behind_those_with_an_option(tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = saved(trained(tiny_checkpoint, target_modules=["q_proj"]), tmp_path)
    planned = plan(tiny_checkpoint, transforms=[FoldGains()], ffn_width="40", lora=adapter)
    assert isinstance(planned, skipstone.exporters.ExportPlan)
    assert planned.transforms == (Lora(adapter), FfnWidth("40"), FoldGains())
    assert not planned.is_as_shipped
    assert planned.num_parameters < plan_export(tiny_checkpoint, ExportOptions.of()).num_parameters


# Broken contracts


class Broken(Transform):
    """Does to a model what its parameters say."""

    def __init__(self, *, vocab_size: int | None = None, width: int | None = None, without: str = "") -> None:
        self.vocab_size, self.width, self.without = vocab_size, width, without

    def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
        d = architecture.dimensions
        sizes = replace(d, vocab_size=self.vocab_size or d.vocab_size)
        widths = architecture.ffn_widths if self.width is None else (self.width,) * d.num_layers
        return replace(architecture, dimensions=sizes, ffn_widths=widths), WithoutTensor(tensors, self.without)


class WithoutTensor(ChangedTensors):
    def __init__(self, source: TensorSource, name: str) -> None:
        super().__init__(source)
        self.without = name

    def names(self) -> frozenset[str]:
        return super().names() - {self.without}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Broken(vocab_size=8), "the transform Broken makes 8 tokens of 307: it must leave the vocabulary as it is"),
        (
            Broken(width=40),
            r"gives '.*gate_proj.weight' the shape \[76, 52\], and its architecture asks for \[40, 52\]",
        ),
        (Broken(without="model.norm.weight"), "gives no tensor 'model.norm.weight', which its architecture names"),
    ],
)
def test_a_transform_that_breaks_the_contract_is_named(
    transform: Transform, message: str, tiny_checkpoint: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        plan(tiny_checkpoint, transforms=[transform])


def test_what_a_transform_requires_and_ensures_is_asked(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = open_checkpoint(make_checkpoint())
    architecture = read_architecture(checkpoint.config)
    with pytest.raises(UnsupportedModel, match="gains of a gpt2 are not folded"):
        apply([FoldGains()], replace(architecture, family="gpt2"), checkpoint.tensors)

    class Forgetful(FoldGains):
        def change(self, architecture: Architecture, tensors: TensorSource) -> tuple[Architecture, TensorSource]:
            return architecture, ChangedTensors(tensors)

    with pytest.raises(UnsupportedModel, match="a gain was left over"):
        apply([Forgetful()], architecture, checkpoint.tensors)


def test_what_is_no_transform_or_no_option_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="'folded' is no transform: pass objects of a class derived from Transform"):
        plan(tiny_checkpoint, transforms=["folded"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="unexpected keyword argument 'exit'"):
        plan(tiny_checkpoint, exit="auto")  # type: ignore[call-arg]
    for options, message in (
        ({"exits": "four"}, "--exits takes none, auto or layer numbers like 4,8, not 'four'"),
        ({"cuts": "auto"}, "--cuts takes none, each or layer numbers like 4,8, not 'auto'"),
        ({"draft_head": "half"}, "--draft-head takes auto or a number of tokens, not 'half'"),
        ({"precision": "int3"}, "precision must be int4, int4-fast, int8 or fp32, got 'int3'"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan("no such folder", **options)  # type: ignore[arg-type]

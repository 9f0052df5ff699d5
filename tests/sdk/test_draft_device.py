"""The draft model on a device of its own: what runs there, what is kept of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import MakeBundle, MakeCheckpoint
from typer.testing import CliRunner

import skipstone
from skipstone.bench import Category, Prompt, Suite, compare
from skipstone.cli.app import program
from skipstone.devices import Capability, CpuDevice, open_device
from skipstone.errors import ConfigError, DeviceError, SkipstoneError
from skipstone.runtime.costs import CostCurve, costs_note
from skipstone.runtime.engine import Model, cache_bytes
from skipstone.runtime.methods import DrafterContext
from skipstone.runtime.methods.small_model import open_model
from skipstone.runtime.sampling import Sampler

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondDevice(CpuDevice):
    """The processor by another name, with another number of threads."""

    name: ClassVar[str] = "second"

    def for_stages(self) -> SecondDevice:
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PoorDevice(SecondDevice):
    """A device that can do little, with as much memory as we say."""

    name: ClassVar[str] = "poor"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {Capability.INT4, Capability.SEVERAL_ROWS, Capability.DYNAMIC_SHAPES}
    )
    left: int | None = None

    def free_bytes(self) -> int | None:
        return self.left


def open_second(*, threads: int | None) -> SecondDevice:
    return SecondDevice(threads=1)


def open_poor(*, threads: int | None) -> PoorDevice:
    return PoorDevice(threads=1)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package, which brings two devices."""
    folder = tmp_path / "second-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: second\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[skipstone.devices]\nsecond = test_draft_device:open_second\npoor = test_draft_device:open_poor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def large(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint)


@pytest.fixture(scope="session")
def small_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(num_hidden_layers=1, initializer_range=0.5)


@pytest.fixture(scope="session")
def small(small_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(small_checkpoint)


@pytest.fixture(scope="session")
def joined(tiny_checkpoint: Path, small_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tiny_checkpoint, drafter=small_checkpoint)


@pytest.mark.parametrize("decode", ["model", "async-model", "tree", "staged", "big-little", "auto"])
def test_the_text_is_the_same_as_without(large: Path, small: Path, decode: str) -> None:
    apart = skipstone.load(large, draft_model=small, draft_device="second", threads=2)
    together = skipstone.load(large, draft_model=small, threads=2)
    for options in ({}, {"temperature": 0.8, "seed": 4}):
        texts = [
            model.generate("def f(", max_new_tokens=24, decode=decode, **options).token_ids
            for model in (apart, together)
        ]
        assert texts[0] == texts[1]
    drafter = apart.runtime.draft_model
    assert drafter is not None
    assert (apart.runtime.device.name, drafter.device.name, drafter.sessions.device.name) == ("cpu", "second", "second")
    assert (apart.runtime.device.threads, drafter.device.threads) == (2, 1)


@pytest.mark.parametrize(("decode", "dial"), [("switch", 2.0), ("cascade", 0.1), ("big-little", 3.0)])
def test_approximate_methods_run_their_small_model_there(joined: Path, decode: str, dial: float) -> None:
    texts = [
        skipstone.load(joined, draft_device=device, threads=1)
        .generate("def f(", max_new_tokens=16, decode=decode, dial=dial)
        .token_ids
        for device in ("second", None)
    ]
    assert texts[0] == texts[1]


def test_what_is_measured_of_the_draft_model_is_of_its_device(joined: Path, tmp_path: Path) -> None:
    here, there = (
        Model.open(joined, draft_device=device, threads=1, profiles=tmp_path).draft_model for device in (None, "second")
    )
    assert here is not None and there is not None
    curve = CostCurve(rows=(1,), contexts=(1,), seconds=((0.001,),))
    note = costs_note(there)
    assert note.save(curve, note.path(tmp_path))
    assert costs_note(there).find(tmp_path) == curve
    assert costs_note(here).find(tmp_path) is None


def test_what_reading_costs_the_drafter_is_told_by_the_curves_of_the_two_devices(joined: Path) -> None:
    model = Model.open(joined, draft_device="second")
    sequence = model.new_sequence()
    sequence.append([1, 2])
    context = DrafterContext(model=model, sampler=Sampler(greedy=True), sequence=sequence)
    by_bytes, drafter = open_model(context).reading_share, model.draft_model
    assert drafter is not None and 0 < by_bytes < 1
    model.shared.get("cost curve", lambda: CostCurve(rows=(1, 16), contexts=(1,), seconds=((0.010, 0.020),)))
    assert open_model(context).reading_share == by_bytes
    drafter.shared.get("cost curve", lambda: CostCurve(rows=(1, 16), contexts=(1,), seconds=((0.004, 0.032),)))
    assert open_model(context).reading_share == pytest.approx(0.2)


def test_memory_is_that_of_either_device(large: Path, small: Path) -> None:
    def room(left: int | None) -> int:
        return (
            Model(
                target.bundle, open_device(), draft_model=drafter.bundle, draft_device=PoorDevice(threads=1, left=left)
            )
            .room()
            .num_tokens
        )

    target, drafter = Model.open(large), Model.open(small)
    assert room(None) == room(1 << 40) == target.manifest.context_length
    assert room(cache_bytes(drafter.manifest.cache, 256) + 64 * MIB) == min(256, target.manifest.context_length)


def test_a_draft_device_without_a_draft_model_is_refused(large: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"draft device second is for a small model, and .* has none; leave it out, or"
    ):
        skipstone.load(large, draft_device="second")


def test_an_unknown_draft_device_is_refused_by_name(joined: Path) -> None:
    with pytest.raises(DeviceError, match=r"device 'thrid' is not known; .*known are .*second"):
        skipstone.load(joined, draft_device="thrid")


def test_a_draft_device_that_cannot_run_trees_says_so(joined: Path) -> None:
    model = skipstone.load(joined, draft_device="poor")
    found = model.generate("def f(", max_new_tokens=16, decode="model")
    assert found.token_ids == model.generate("def f(", max_new_tokens=16, decode="plain").token_ids
    with pytest.raises(ConfigError, match="cannot run trees, because device poor has no tree-attention; use model"):
        model.generate("def f(", max_new_tokens=16, decode="tree")


def command(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(program([]), [*map(str, arguments)])
    return found.exit_code, str(found.exception) if isinstance(found.exception, SkipstoneError) else found.output


@pytest.mark.parametrize("decode", ["model", "async-model"])
def test_generate_takes_a_draft_device(joined: Path, decode: str) -> None:
    common = ("generate", joined, "-p", "def f(", "-n", "12", "--quiet", "--decode")
    assert command(*common, decode, "--draft-device", "second") == command(*common, "plain")


def test_a_comparison_says_where_it_drafted(joined: Path, large: Path) -> None:
    prompts = (Prompt(name="one", text="def f("),)
    suite = Suite(name="made up", categories=(Category(name="all", about="the test", prompts=prompts),))
    for model, place in ((Model.open(joined, draft_device="second"), "second"), (Model.open(large), None)):
        assert compare(model, suite, ["plain"], new_tokens=2, rounds=1).setting()["draft_device"] == place


REFUSED: list[tuple[Callable[[Path], tuple[str | Path, ...]], str]] = [
    (lambda bundle: ("generate", bundle, "-p", "x", "--decode", "ngram"), "--decode ngram does not use; add model"),
    (lambda bundle: ("generate", bundle, "-p", "x", "--decode", "exit"), "--decode exit does not use; leave it out"),
    (lambda bundle: ("bench", "suite", bundle, "--decode", "ngram+suffix"), "does not use; add model"),
    (lambda bundle: ("tune", "dial", bundle, "--decode", "skipdecode"), "--decode skipdecode does not use; leave it"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED)
def test_a_draft_device_that_nothing_would_use_is_refused(
    joined: Path, arguments: Callable[[Path], tuple[str | Path, ...]], reason: str
) -> None:
    code, text = command(*arguments(joined), "--draft-device", "second")
    assert code != 0
    assert "--draft-device is where a small model runs, which" in text and reason in text


def test_auto_says_which_device_drafts(joined: Path) -> None:
    code, printed = command("generate", joined, "-p", "a", "-n", "2", "--decode", "model", "--draft-device", "AUTO")
    assert code == 0
    assert "small model: device auto takes cpu; not " in printed
    assert Model.open(joined, draft_device="cpu").draft_device_told is None

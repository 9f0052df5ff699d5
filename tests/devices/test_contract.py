"""The decoding contract of devices: it holds, what is lacking is planned around or refused, and a broken one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from processes import SharedFolders
from provider_devices import stand_in, webgpu
from test_toy_device import ToyBinding, ToyBuffer, ToyDevice

from skipstone import LanguageModel
from skipstone.check import Clause, ContractBundles, check_clauses
from skipstone.device_check import contract_bundles
from skipstone.devices import Capability, Device, open_device
from skipstone.errors import ConfigError, DeviceError
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import approximate_methods
from skipstone.runtime.methods.depth import find_skip_set


@pytest.fixture(scope="module")
def bundles(shared_folder: SharedFolders) -> ContractBundles:
    folder = shared_folder(contract_bundles, "contract bundles")
    return ContractBundles.in_folder(folder, target="ort")


def verdicts(device: Device, bundles: ContractBundles) -> dict[str, Clause]:
    return {clause.name: clause for clause in check_clauses(device, bundles)}


def by_verdict(device: Device, bundles: ContractBundles, verdict: str) -> dict[str, str]:
    found = verdicts(device, bundles)
    return {name: clause.reason for name, clause in found.items() if clause.verdict == verdict}


@pytest.mark.parametrize("make", [open_device, ToyDevice])
def test_the_processor_and_a_device_of_another_package_keep_the_contract(
    make: Callable[[], Device], bundles: ContractBundles
) -> None:
    found = verdicts(make(), bundles)
    assert len(found) == 13
    refused = {"int8 cache"} if make is ToyDevice else set()
    assert {name for name, clause in found.items() if clause.verdict != "ok"} == refused, found


@pytest.mark.parametrize("takes_offsets", [True, False])
@pytest.mark.parametrize("ignores_positions", [True, False])
def test_memory_of_a_provider_keeps_the_contract(
    bundles: ContractBundles, takes_offsets: bool, ignores_positions: bool
) -> None:
    device = stand_in(takes_offsets=takes_offsets, ignores_positions=ignores_positions)
    assert {clause.verdict for clause in verdicts(device, bundles).values()} == {"ok"}


@pytest.mark.webgpu
@pytest.mark.slow
def test_webgpu_keeps_the_contract(bundles: ContractBundles) -> None:
    with webgpu() as device:
        found = verdicts(device, bundles).values()
        assert [clause.name for clause in found if clause.verdict != "ok"] == ["int8 cache"], found


# A device that can do as little as one may


class OneRowBinding(ToyBinding):
    """Takes one row behind cached ones, and no tree; so it stands for kernels that would compute something else."""

    def run(self) -> None:
        cached = self._inputs["seqlens_k"] + 1 - self._inputs["position_ids"].shape[-1]
        assert self._inputs["position_ids"].shape[-1] == 1 or (cached <= 0).all(), "several rows behind cached ones"
        assert not self._inputs.get("attention_bias", np.zeros(1)).any(), "a mask"
        super().run()


class OneRowToy(ToyDevice):
    name, capabilities = "one-row", frozenset({"int4", "dynamic-shapes"})

    def bind(self, session: ort.InferenceSession) -> ToyBinding:
        takes_rows = any(argument.name == "position_ids" for argument in session.get_inputs())
        return OneRowBinding(session) if takes_rows else ToyBinding(session)


def test_what_a_device_lacks_is_refused_with_the_reason_and_the_rest_holds(bundles: ContractBundles) -> None:
    refused = by_verdict(OneRowToy(), bundles, "refused")
    assert by_verdict(OneRowToy(), bundles, "failed") == {}
    assert "takes one row a call" in refused["chain"] and "several-rows" in refused["chain"]
    assert "several-rows" in refused["tree"] and "no kernels for a cache of int8" in refused["int8 cache"]
    assert [*refused] == ["chain", "tree", "int8 cache"]


def test_methods_that_draft_are_refused_there_and_auto_decodes_plainly(bundles: ContractBundles) -> None:
    model = LanguageModel(Model.open(bundles.numbers, device="cpu", cache="fp32"))
    one_row = LanguageModel(Model(model.runtime.bundle, OneRowToy()))
    assert one_row.runtime.sessions.cache_type == "float32"  # the bundle's own is int8
    plain = model.generate("def f(", decode="plain", max_new_tokens=12)
    for decode in ("plain", "auto"):
        made = one_row.generate("def f(", decode=decode, max_new_tokens=12)
        assert made.token_ids == plain.token_ids and [*made.stats.drafters] in ([], ["plain"])
    for decode in ("ngram", "self", "lookahead", "ngram,suffix"):
        with pytest.raises(ConfigError, match=r"drafts, and this device takes one row a call.*use plain, or another"):
            one_row.generate("def f(", decode=decode, max_new_tokens=4)
    assert one_row.generate("def f(", decode="plain", exact=True, max_new_tokens=12).token_ids == plain.token_ids


@pytest.mark.parametrize("decode", ["adaptive", "skipdecode", "adadec", "momentum"])
def test_methods_that_write_run_row_by_row(bundles: ContractBundles, decode: str) -> None:
    model = LanguageModel(Model.open(bundles.numbers, device="cpu", cache="fp32"))
    one_row = LanguageModel(Model(model.runtime.bundle, OneRowToy()))
    options: dict[str, Any] = {"decode": decode, "dial": approximate_methods()[decode].dial.settings[2]}
    wanted = model.generate("def f(a, b):", max_new_tokens=16, **options)
    assert one_row.generate("def f(a, b):", max_new_tokens=16, **options).token_ids == wanted.token_ids


def test_layers_to_leave_out_of_drafts_are_not_looked_for_there(bundles: ContractBundles) -> None:
    one_row = Model(Model.open(bundles.numbers).bundle, OneRowToy())
    with pytest.raises(ConfigError, match="skip drafts, and this device takes one row a call"):
        find_skip_set(one_row, ["def f(a, b):"] * 8)


@pytest.mark.parametrize("method", ["branch", "superposed", "beam"])
def test_suggestions_need_no_several_rows(bundles: ContractBundles, method: str) -> None:
    model = LanguageModel(Model.open(bundles.numbers, device="cpu", cache="fp32"))
    one_row = LanguageModel(Model(model.runtime.bundle, OneRowToy()))
    wanted = [draft.text for draft in model.suggest("def f(", method=method)]
    assert [draft.text for draft in one_row.suggest("def f(", method=method)] == wanted


def test_a_device_with_chains_only_gets_chains(bundles: ContractBundles) -> None:
    toy = ToyDevice()
    toy.capabilities = frozenset({Capability.SEVERAL_ROWS, Capability.DYNAMIC_SHAPES})  # type: ignore[misc]
    refused = by_verdict(toy, bundles, "refused")
    assert [*refused] == ["tree", "int8 cache"] and "has no tree-attention" in refused["tree"]


def test_a_device_of_fixed_sizes_refuses_a_bundle_without_sizes(bundles: ContractBundles) -> None:
    toy = ToyDevice()
    toy.capabilities = frozenset({Capability.SEVERAL_ROWS})  # type: ignore[misc]
    with pytest.raises(DeviceError, match="takes any number of rows, and device toy has no dynamic-shapes; make one"):
        Model(Model.open(bundles.numbers).bundle, toy)


# What is broken fails


@contextmanager
def broken(target: type, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, change(getattr(target, name)))
        yield


def off_by_a_little(run: Callable[[ToyBinding], None]) -> Callable[[ToyBinding], None]:
    def wrong(binding: ToyBinding) -> None:
        run(binding)
        if "logits" in binding._outputs:
            binding._outputs["logits"].memory[..., ::2] += 0.05

    return wrong


def no_number(run: Callable[[ToyBinding], None]) -> Callable[[ToyBinding], None]:
    def wrong(binding: ToyBinding) -> None:
        run(binding)
        for buffer in binding._outputs.values():
            if buffer.memory.dtype == np.float32:
                buffer.memory[...] = np.nan

    return wrong


def no_mask(read_from: Callable[..., None]) -> Callable[..., None]:
    def wrong(binding: ToyBinding, name: str, buffer: ToyBuffer, shape: tuple[int, ...] | None = None) -> None:
        unmasked = ToyBuffer(np.zeros_like(buffer.memory)) if name == "attention_bias" else buffer
        read_from(binding, name, unmasked, shape)

    return wrong


def nothing(method: Callable[..., object]) -> Callable[..., None]:
    return lambda *arguments: None


def no_view(view: Callable[..., ToyBuffer]) -> Callable[..., ToyBuffer]:
    def wrong(buffer: ToyBuffer, at: Any) -> ToyBuffer:
        memory: NDArray[Any] = buffer.memory[at].copy()
        return ToyBuffer(memory)

    return wrong


@pytest.mark.parametrize(
    ("target", "name", "change", "clauses"),
    [
        (ToyBinding, "run", off_by_a_little, {"plain", "chain", "tree", "rollback", "exits", "blends", "fork"}),
        (ToyBinding, "run", no_number, {"plain", "chain", "rollback", "blends", "int4"}),
        (ToyBinding, "read_from", no_mask, {"tree"}),
        (ToyBuffer, "move", nothing, {"memory", "tree"}),
        (ToyBuffer, "copy_from", nothing, {"memory", "fork"}),
        (ToyBuffer, "view", no_view, {"memory"}),
    ],
)
def test_a_broken_device_fails_the_clauses_that_need_what_is_broken(
    bundles: ContractBundles, target: type, name: str, change: Callable[[Any], Any], clauses: set[str]
) -> None:
    with broken(target, name, change):
        failed = by_verdict(ToyDevice(), bundles, "failed")
    assert clauses <= {*failed}, failed
    if change in (no_mask, nothing):
        assert {"plain", "blends"}.isdisjoint(failed), failed

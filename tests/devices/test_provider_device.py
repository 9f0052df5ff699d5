"""The decoding of a device with memory of its own, on one that is really the processor: bit by bit the same text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from processes import SharedFolders
from provider_devices import PROVIDER, stand_in

from skipstone import LanguageModel
from skipstone.check import ContractBundles, check_clauses
from skipstone.device_check import contract_bundles
from skipstone.devices.provider_device import ProviderDevice
from skipstone.errors import DeviceError
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.engine.copied_branches import BatchedBranches

PROMPT = "def add(first"


@pytest.fixture(scope="module", params=[True, False], ids=["offsets", "copies"])
def device(request: pytest.FixtureRequest) -> ProviderDevice:
    return stand_in(takes_offsets=request.param)


@pytest.mark.parametrize("decode", ["plain", "ngram", "lookahead", "self", "jacobi"])
def test_methods_write_the_text_of_the_processor(tiny_stages: Model, device: ProviderDevice, decode: str) -> None:
    there = LanguageModel(Model(tiny_stages.bundle, device))
    expected = LanguageModel(tiny_stages).generate(PROMPT, decode="plain", max_new_tokens=24)
    assert there.generate(PROMPT, decode=decode, max_new_tokens=24).token_ids == expected.token_ids


def test_rows_turned_before_attention_give_the_logits_of_rows_turned_in_it(tiny: Model) -> None:
    logits = []
    for device in (tiny.device, stand_in(takes_offsets=True, ignores_positions=True)):
        sequence = Model(tiny.bundle, device).new_sequence(context_length=40)
        sequence.append(list(range(5, 15)))
        tree = Draft((7, 8, 9, 7), "test", parents=(0, 1, 1, 3))
        logits.append(sequence.extend(tree).copy())
    assert np.abs(logits[0] - logits[1]).max() < 1e-5 * np.abs(logits[0]).max()


def test_a_graph_runs_on_a_view_of_a_cache(tiny: Model, device: ProviderDevice) -> None:
    there = Model(tiny.bundle, device)
    caches = [model.new_cache(context_length=40, batch=3) for model in (tiny, there)]
    for cache in caches:
        for buffer in cache:
            buffer.write(0)
    logits = []
    for model, cache in zip((tiny, there), caches, strict=True):
        sequence = model.sequence_in(cache.row(1))
        sequence.append(list(range(5, 25)))
        logits.append(sequence.extend(Draft.empty()).copy())
    assert np.array_equal(*logits)
    for here, other in zip(*caches, strict=True):
        assert np.array_equal(here.read(), other.read()) and other.read(np.s_[1:2]).any()
        assert not other.read(np.s_[2:]).any()


def test_branches_of_a_batch_copy_and_reorder_rows_there(tiny: Model, device: ProviderDevice) -> None:
    logits = []
    for model in (tiny, Model(tiny.bundle, device)):
        sequence = model.new_sequence(context_length=40)
        sequence.append(list(range(5, 15)))
        branches = BatchedBranches(sequence, sequence.extend(Draft.empty()).copy(), most=3, steps=3)
        for token_ids, parents in (([7, 8, 9], [2, 0, 0]), ([5, 6, 7], [1, 1, 2]), ([1, 2, 3], [0, 1, 2])):
            logits.append([branches.step(token_ids).copy(), branches.last_values()])
            branches.reorder(parents)
    for here, there in zip(logits[:3], logits[3:], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(here, there, strict=True))


def test_a_kept_prefix_is_read_from_and_written_to_the_device(tiny: Model, device: ProviderDevice) -> None:
    source, target = tiny.new_cache(context_length=30), Model(tiny.bundle, device).new_cache(context_length=40)
    for buffer in source:
        buffer.write(np.random.default_rng(1).random(buffer.shape, np.float32))
    target.fill(20, source.first_rows, [block.copy() for block in source.blocks(25)])
    for kept, block in zip(target.blocks(20), source.blocks(20), strict=True):
        assert np.array_equal(kept, block)
    assert np.array_equal(target.values(slice(3, 9)), source.values(slice(3, 9)))


def test_a_graph_with_nodes_that_the_provider_lacks_is_told(tiny: Model) -> None:
    half = replace(stand_in(takes_offsets=True), provider="AzureExecutionProvider", name="half", open_graph=_with_azure)
    with pytest.warns(RuntimeWarning, match=r"MatMul.* run on the processor, as half has no kernel"):
        half.open_session(next(tiny.bundle.path.glob("*.onnx")))


def _with_azure(graph: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["AzureExecutionProvider", PROVIDER])


def test_a_provider_that_does_not_start_is_an_error_and_no_fallback(tiny: Model) -> None:
    broken = replace(stand_in(takes_offsets=True), name="gone", provider="CUDAExecutionProvider")
    with pytest.raises(DeviceError, match=r"device gone is broken here.*give --device cpu"):
        broken.open_session(next(tiny.bundle.path.glob("*.onnx")))


def test_too_large_a_cache_says_what_to_lower(device: ProviderDevice) -> None:
    with pytest.raises(DeviceError, match=r"has no memory for a buffer of 4,000,000,000\.0 MB: lower --context"):
        device.resident((10**9, 10**6), np.float32)


@pytest.mark.parametrize("ignores_positions", [True, False])
def test_the_contract_holds_with_memory_of_a_provider(shared_folder: SharedFolders, ignores_positions: bool) -> None:
    bundles = ContractBundles.in_folder(shared_folder(contract_bundles, "contract bundles"), target="ort")
    device = stand_in(takes_offsets=not ignores_positions, ignores_positions=ignores_positions)
    assert {clause.name: clause.reason for clause in check_clauses(device, bundles) if clause.verdict != "ok"} == {}

"""WebGPU, in software where there is no GPU: the texts of the processor, and logits within float32's rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from provider_devices import webgpu

from skipstone import LanguageModel
from skipstone.devices import Device
from skipstone.devices.provider_device import nodes_on_processor
from skipstone.errors import DeviceError
from skipstone.runtime.engine import Draft, Model

pytestmark = pytest.mark.webgpu
PROMPT = "def add(first"
# Sums of float32 in another order.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with webgpu() as device:
        yield device


@pytest.fixture(scope="module")
def there(tiny_stages: Model, device: Device) -> Model:
    return Model(tiny_stages.bundle, device)


def test_logits_of_a_prompt_and_of_a_tree_are_those_of_the_processor(tiny_stages: Model, there: Model) -> None:
    logits = []
    for model in (tiny_stages, there):
        sequence = model.new_sequence(context_length=40)
        sequence.append(list(range(5, 15)))
        tree = Draft((7, 8, 9, 7), "test", parents=(0, 1, 1, 3))
        logits.append([sequence.extend(tree).copy()])
        sequence.commit([7, 9, 7, 5])  # the second branch: its rows move
        logits[-1].append(sequence.extend(Draft.empty()).copy())
    for expected, found in zip(*logits, strict=True):
        assert np.abs(expected - found).max() < TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("decode", ["plain", "ngram", "self"])
def test_methods_write_the_text_of_the_processor(tiny_stages: Model, there: Model, decode: str) -> None:
    expected = LanguageModel(tiny_stages).generate(PROMPT, decode="plain", max_new_tokens=8)
    assert LanguageModel(there).generate(PROMPT, decode=decode, max_new_tokens=8).token_ids == expected.token_ids


def test_every_node_runs_on_the_device(there: Model) -> None:
    assert [dict(nodes_on_processor(session)) for session in there.sessions.graphs] == [{}] * 5


def test_too_large_a_cache_is_an_error_though_the_provider_says_nothing(device: Device) -> None:
    with pytest.raises(DeviceError, match=r"no memory for a buffer of 51,200\.0 MB: lower --context"):
        device.resident((1, 2, 10**8, 64), np.float32)

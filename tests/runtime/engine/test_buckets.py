"""Graphs of fixed shapes, rows filled up and the cache masked: the texts and logits are those of free shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from fixed_devices import fixed, free
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Blends, Draft, Model

TEXT = [7, 3, 250, 11, 42, 42, 5, 160, 31, 8, 90, 17]
FAMILIES = (
    "llama, tied",
    "llama, all biases",
    "llama, one head",
    "llama, longrope",
    "qwen3",
    "gpt2",
    "gemma2",
    "gemma3n_text",
    "mixtral",
    "mistral, window of 5",
    "phi3, longrope of 18 channels of 24",
)


@pytest.fixture(scope="module")
def bundle_of(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Any:
    def make(family: str, *, buckets: str = "1,4x16,64", target: str = "xnnpack", **options: Any) -> Path:
        case = CASES[family]
        checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
        return make_bundle(checkpoint, target=target, buckets=buckets, precision=None, **options)

    return make


def logits_of(model: Model) -> list[NDArray[np.float32]]:
    """Return logits after a prompt of three pieces, of a chain, of a tree, after a rollback, and of a copy."""
    sequence = model.new_sequence(context_length=40)
    sequence.append(TEXT)
    logits = [sequence.extend(Draft.empty()).copy()]
    drafts = [(Draft.chain([7, 11, 13, 2, 9], source=""), [7, 11, 3])]
    if sequence.takes_trees:
        drafts.append((Draft(token_ids=(7, 11, 13, 4, 4), parents=(0, 0, 1, 2, 3), source=""), [11, 4, 8]))
    for draft, kept in drafts:
        sequence.commit([5])
        if sequence.draft_room < len(draft):  # positions change
            sequence.extend(Draft.empty())
            continue
        logits.append(sequence.extend(draft).copy())
        sequence.commit(kept)
        logits.append(sequence.extend(Draft.empty()).copy())
    sequence.rollback(10)
    sequence.append([3, 1])
    logits.append(sequence.extend(Draft.empty()).copy())
    twin = sequence.fork()
    twin.commit([9])
    logits.append(twin.extend(Draft.empty()).copy())
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_shapes_give_the_logits_of_free_ones(bundle_of: Any, family: str) -> None:
    bundle = bundle_of(family, exits=CASES[family].exits[-1])
    for wanted, found in zip(logits_of(Model.open(bundle)), logits_of(fixed(bundle)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)


def test_float16_over_fixed_shapes_is_near(bundle_of: Any) -> None:
    bundle = bundle_of("llama, tied", target="coreml")
    for wanted, found in zip(logits_of(free(bundle)), logits_of(fixed(bundle)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("decode", ["plain", "suffix", "self", "recycle"])
def test_every_method_writes_the_text_of_free_shapes(bundle_of: Any, decode: str) -> None:
    bundle = bundle_of("llama, tied", exits="auto")
    free, padded = (
        LanguageModel(model).generate("def add(", max_new_tokens=24, decode=decode)
        for model in (Model.open(bundle), fixed(bundle))
    )
    assert padded.token_ids == free.token_ids


def test_texts_of_a_batch_are_fed_one_after_the_other(bundle_of: Any) -> None:
    bundle, prompts = bundle_of("qwen3"), ["def add(", "class A:", "return"]
    free, padded = (
        [text.token_ids for text in LanguageModel(model).generate(prompts, max_new_tokens=8)]
        for model in (Model.open(bundle), fixed(bundle))
    )
    assert padded == free


def test_the_cache_is_as_long_as_the_next_bucket(bundle_of: Any) -> None:
    model = fixed(bundle_of("llama, tied"))
    assert model.manifest.context_length == 64
    assert [model.new_cache(context_length=length).num_rows for length in (1, 16, 17, 64)] == [16, 16, 64, 64]
    with pytest.raises(ConfigError, match="the model's 64 tokens"):
        model.new_cache(context_length=65)
    sequence = model.new_sequence(context_length=16)
    sequence.append([5] * 16)
    assert len(sequence.extend(Draft.empty())) == 1
    with pytest.raises(CacheFull):
        sequence.commit([7])


def test_only_graphs_that_are_called_are_opened(bundle_of: Any) -> None:
    model = fixed(bundle_of("llama, tied"))
    assert not model.sessions._opened
    sequence = model.new_sequence(context_length=16)
    sequence.append([5, 7])
    sequence.extend(Draft.empty())
    assert [*model.sessions._opened] == ["stage-00.rows-4-context-16.onnx"]


def test_blends_are_refused(bundle_of: Any) -> None:
    sequence = fixed(bundle_of("llama, tied")).new_sequence(context_length=16)
    sequence.append([5])
    sequence.extend(Draft.empty())
    assert not sequence.takes_blends
    with pytest.raises(ConfigError, match="fixed shapes take tokens only"):
        sequence.extend_by_blends(Blends.of([[1, 2]], [[0.5, 0.5]]))

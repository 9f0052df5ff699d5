"""Prompts of a batch that one call reads: each has the bits that it has alone."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_case import longrope
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import skipstone.exporters.graph.rings
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.engine.together import LONGEST, MOST_PADDING, groups_of, read_together
from skipstone.runtime.generation import GenerationOptions, stream_batch

MISTRAL: dict[str, object] = {"model_type": "mistral", "sliding_window": 5}
MIXTRAL: dict[str, object] = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
LONG_ROPE: dict[str, object] = {"model_type": "llama", "original_max_position_embeddings": 16}
LONG_ROPE |= longrope(8, original_max_position_embeddings=16)
KINDS: dict[str, tuple[dict[str, object], dict[str, Any], dict[str, Any]]] = {
    "fp32": ({}, {}, {}),
    "fp32, int8 cache": ({}, {"cache": "int8"}, {}),
    "int8": ({}, {"precision": "int8"}, {}),
    "int4, int8 cache": ({}, {"precision": "int4", "cache": "int8"}, {}),
    "int4, exits": ({}, {"precision": "int4", "exits": "2"}, {}),
    "int8 graphs": ({}, {"precision": "int8", "prefill": "int8", "exits": "2"}, {"prefill": "int8"}),
    "int8 graphs and cache": ({}, {"precision": "int4", "prefill": "int8", "cache": "int8"}, {"prefill": "int8"}),
    "windows": (MISTRAL, {}, {}),
    "windows, int8 graphs": (MISTRAL, {"precision": "int8", "prefill": "int8"}, {"prefill": "int8"}),
    "windows, int8 cache": (MISTRAL, {"precision": "int4", "cache": "int8"}, {}),
    "experts": (MIXTRAL, {"precision": "int4", "group_size": 32}, {}),
    "two sets of angles": (LONG_ROPE, {}, {}),
}
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    config, wish, loading = KINDS[request.param]
    model = Model.open(make_bundle(make_checkpoint(**config), **wish), **loading)  # type: ignore[arg-type]
    if not model.rounding.is_free:
        pytest.skip("on this processor rows of this bundle round by what is beside them, so they are read alone")
    return model


def texts_of(lengths: SequenceOf[int]) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, 290, size=length).tolist() for length in lengths]


def opened(model: Model, texts: SequenceOf[SequenceOf[int]], batch: int) -> tuple[Any, list[Sequence]]:
    cache = model.new_cache(context_length=96, batch=batch)
    sequences = [model.sequence_in(cache.row(place)) for place in range(batch)]
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.append(text)
        sequence.begin()
    return cache, sequences


def steps(sequence: Sequence, logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the logits behind a prompt and those of some tokens after it, decoded alone."""
    rows = [logits.ravel().copy()]
    for _ in range(3):
        sequence.commit([int(rows[-1].argmax())])
        sequence.check()
        rows.append(sequence.extend(Draft.empty())[0].copy())
    return rows


@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS)
def test_each_text_has_the_bits_of_the_text_alone(model: Model, lengths: list[int]) -> None:
    texts = texts_of(lengths)
    cache, sequences = opened(model, texts, len(texts))
    assume(len({sequence.will_be_long for sequence in sequences}) == 1)
    together = read_together(sequences, cache)
    for text, sequence, logits in zip(texts, sequences, together, strict=True):
        _, (alone,) = opened(model, [text], 1)
        wanted = steps(alone, alone.extend(Draft.empty()))
        assert np.array_equal(steps(sequence, logits), wanted), (len(text), lengths)


@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=40).map(sorted), chunk=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_every_text_is_in_one_group_of_like_and_short_ones(tiny: Model, lengths: list[int], chunk: int) -> None:
    model = Model(tiny.bundle, tiny.device, prefill_chunk=chunk)
    _, sequences = opened(model, texts_of(lengths), len(lengths))
    groups = groups_of(sequences)
    assert [place for group in groups for place in group] == [*range(len(lengths))]
    for group in (group for group in groups if len(group) > 1):
        shortest, longest = lengths[group[0]], lengths[group[-1]]
        assert shortest >= 1 and longest <= min(LONGEST, shortest + MOST_PADDING)
        assert len(group) * longest <= chunk


def test_what_is_cached_or_long_goes_alone(tiny: Model) -> None:
    _, sequences = opened(tiny, texts_of([5, 5, 5]), 3)
    assert groups_of(sequences) == [range(3)]
    sequences[1].extend(Draft.empty())
    assert groups_of(sequences) == [range(1), range(1, 2), range(2, 3)]


def test_texts_fill_a_ring_together_until_rows_leave(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skipstone.exporters.graph.rings, "RING_UNIT", 8)
        model = Model.open(make_bundle(make_checkpoint(**MISTRAL, max_position_embeddings=323), exits="1"))  # type: ignore[arg-type]
    texts = texts_of([14, 15, 16, 17, 18])
    cache, sequences = opened(model, texts, 5)
    assert cache.has_rings
    assert groups_of(sequences) == [range(3), range(3, 4), range(4, 5)], "rows leave at the 17th"
    together = read_together(sequences[:3], cache.rows(slice(3)))
    for text, sequence, logits in zip(texts, sequences, together, strict=False):
        _, (alone,) = opened(model, [text], 1)
        assert np.array_equal(steps(sequence, logits), steps(alone, alone.extend(Draft.empty())))


def test_texts_with_other_angles_go_apart(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model = Model.open(make_bundle(make_checkpoint(**LONG_ROPE)))  # type: ignore[arg-type]
    _, sequences = opened(model, texts_of([15, 16, 17, 18]), 4)
    assert groups_of(sequences) == [range(2), range(2, 4)]


def test_texts_that_need_rows_beside_them_are_read_one_by_one(
    tiny: Model, fed: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of([5, 4, 5])
    monkeypatch.setattr(type(tiny.rounding), "is_free", False)
    fed.clear()
    list(stream_batch(tiny, texts, GenerationOptions(max_new_tokens=1)))
    assert fed == [(1, 5), (1, 4), (1, 5)]


def test_a_call_is_run_when_the_first_of_its_texts_has_its_turn(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    assert tiny.rounding.is_free
    texts = texts_of([5, 40, 4])
    fed.clear()
    pieces = stream_batch(tiny, texts, GenerationOptions(max_new_tokens=4))
    assert (next(pieces)[0], fed) == (0, [(2, 5)])
    assert (next(pieces)[0], fed) == (1, [(2, 5), (1, 40)])
    pieces.close()


def test_samples_of_a_prompt_read_it_once(tiny: Model, fed: list[tuple[int, ...]]) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_new_tokens": 3}
    for more in ({}, {"first": 3}):
        fed.clear()
        list(LanguageModel(tiny).samples("def add(first", 3, **options, **more))
        prompt, *others = [num_tokens for _, num_tokens in fed]
        assert prompt == len(tiny.tokenizer.encode("def add(first")) > 3 >= max(others)

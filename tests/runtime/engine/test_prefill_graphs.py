"""Prompts that graphs of their own read: faster products, and a text that depends on nothing but its prompt."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters import ExportOptions, plan_export
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.engine.prefill import MOST_PREFILL_KL, reads_apart


@pytest.fixture(scope="module", params=["one stage", "two stages", "windows of 5"])
def bundle(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Path,
    make_checkpoint: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """Return a bundle with graphs that read prompts, of one stage or two, or with layers that see five tokens."""
    checkpoint = make_checkpoint("mistral", sliding_window=5) if "windows" in request.param else tiny_checkpoint
    exits = "none" if request.param == "one stage" else "2"
    plan = plan_export(checkpoint, ExportOptions.of(precision="int8", prefill="int8", exits=exits))
    folder = tmp_path_factory.mktemp("prefill") / "bundle"
    plan.write(folder)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return Model(bundle, open_device(), prefill="int8")


def read(sequence: Sequence, prompt: SequenceOf[int]) -> NDArray[np.float32]:
    """Return the logits behind a prompt."""
    sequence.hold(prompt)
    sequence.begin()
    logits = sequence.extend(Draft.empty()).copy()
    sequence.check()
    return logits


def some_tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 60, count)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 60), chunk=st.integers(1, 64))
def test_a_prompt_has_the_same_bits_in_any_pieces(bundle: Bundle, model: Model, length: int, chunk: int) -> None:
    pieces = Model(bundle, open_device(), prefill="int8", prefill_chunk=chunk)
    prompt = some_tokens(length)
    assert np.array_equal(read(pieces.new_sequence(exact=True), prompt), read(model.new_sequence(exact=True), prompt))


@settings(max_examples=25, deadline=None)
@given(first=st.integers(1, 30), made=st.integers(1, 6), more=st.integers(0, 20))
def test_a_text_does_not_depend_on_what_was_cached(model: Model, first: int, made: int, more: int) -> None:
    talk, token_ids = model.new_sequence(exact=True), some_tokens(first)
    logits = read(talk, token_ids)
    for _ in range(made):
        talk.commit([int(logits[0].argmax())])
        logits = talk.extend(Draft.empty()).copy()
    prompt = [*talk.token_ids, *some_tokens(more, seed=1)]
    assert np.array_equal(read(talk, prompt), read(model.new_sequence(exact=True), prompt))
    shorter = prompt[: len(prompt) // 2 + 1]
    assert np.array_equal(read(talk, shorter), read(model.new_sequence(exact=True), shorter))


def test_they_read_all_but_the_last_token_and_nothing_else(model: Model, bundle: Bundle) -> None:
    same = Model(bundle, open_device(), prefill="same")
    for length, is_other in ((1, False), (2, True), (30, True)):
        logits, plain = (read(each.new_sequence(exact=True), some_tokens(length)) for each in (model, same))
        assert (not np.array_equal(logits, plain)) == is_other
        assert np.corrcoef(logits[0], plain[0])[0, 1] > 0.98
    opened = len(same.sessions._opened)
    assert opened == len(bundle.manifest.stages) + (bundle.manifest.head is not None)


@pytest.mark.parametrize("decode", ["plain", "ngram"])
def test_a_method_gives_the_text_of_plain_decoding(model: Model, decode: str) -> None:
    asked = LanguageModel(model)
    prompt = "the cat and the cat and the "
    texts = [asked.generate(prompt, max_new_tokens=20, decode=each, exact=True).token_ids for each in ("plain", decode)]
    assert texts[0] == texts[1]


def test_a_prefix_in_a_file_gives_the_same_text(model: Model, tmp_path: Path) -> None:
    asked, file = LanguageModel(model), tmp_path / "prefix"
    prompt = "once upon a time there was a cat that sat on a mat. "
    alone = asked.generate(prompt + "why?", max_new_tokens=12)
    asked.save_prefix(file, prompt)
    behind = asked.generate(prompt + "why?", max_new_tokens=12, prompt_cache=asked.load_prefix(file))
    assert behind.token_ids == alone.token_ids


def test_a_talk_gives_what_its_turns_give_alone(model: Model) -> None:
    talk, alone = model.new_sequence(exact=True), model.new_sequence(exact=True)
    for turn in range(3):
        prompt = [*talk.token_ids, *some_tokens(5, seed=turn)]
        talk.commit([int(read(talk, prompt)[0].argmax())])
        alone.rollback(0)
        assert talk.token_ids[-1] == int(read(alone, prompt)[0].argmax())


def test_auto_takes_them_where_answers_change_little(bundle: Bundle, tiny: Model) -> None:
    def with_kl(kl: float | None) -> Bundle:
        check = None if kl is None else {"prefill": {"kl": kl}}
        return replace(bundle, manifest=replace(bundle.manifest, check=check))

    found = [reads_apart(with_kl(kl), "auto") for kl in (None, MOST_PREFILL_KL / 2, MOST_PREFILL_KL * 2)]
    assert found == [False, True, False]
    assert reads_apart(with_kl(None), "int8") and not reads_apart(with_kl(0.0), "same")
    with pytest.raises(ConfigError, match="make one with `skipstone export CHECKPOINT -o OUT --prefill int8"):
        reads_apart(tiny.bundle, "int8")


def test_operators_of_the_standard_have_no_such_graphs() -> None:
    with pytest.raises(ConfigError, match="leave --target or --prefill out"):
        ExportOptions.of(precision="int8", prefill="int8", target="plain")

"""An int8 cache in use: what calls are fed, prompt caches in files, and methods that write plain decoding's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MakeBundle
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.api import load
from skipstone.errors import BundleError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model, Prefix, save_prefix
from skipstone.runtime.engine.rounding import NEVER

TOKEN_IDS: list[int] = np.random.default_rng(3).integers(3, 290, size=40).tolist()
PROMPTS = ["def add(first, second):\n", "class Sequence:", "The quick brown"]


@pytest.fixture(scope="module", params=["fp32", "int4"])
def bundle(request: pytest.FixtureRequest, tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    """Return a bundle with exits, whose own cache is int8."""
    return make_bundle(tiny_checkpoint, precision=request.param, exits="auto", cache="int8")


@pytest.fixture(scope="module")
def int8(bundle: Path) -> Model:
    return Model.open(bundle)


def logits_of(model: Model, sizes: list[int]) -> np.ndarray:
    """Return the logits [T, V] of TOKEN_IDS, fed in calls of so many rows and the rest at once."""
    sequence, rows, start = model.new_sequence(exact=True), [], 0
    while start < len(TOKEN_IDS):
        size = sizes.pop(0) if sizes else len(TOKEN_IDS) - start
        first, *rest = TOKEN_IDS[start : start + size]
        sequence.append([first])
        rows.append(sequence.extend(Draft.chain(rest, source="text")).copy())
        if rest:
            sequence.commit(rest)
        start += size
    return np.concatenate(rows)


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 20), max_size=40))
def test_rows_in_any_pieces_have_the_same_bits(int8: Model, sizes: list[int]) -> None:
    assert int8.manifest.exact
    assert np.array_equal(logits_of(int8, sizes), logits_of(int8, []))


def test_no_row_is_doubled_and_exact_texts_have_no_price_in_attention(int8: Model, bundle: Path) -> None:
    assert not int8.sessions.rounds_single_rows
    assert int8.rounding.attention_price == 0
    assert int8.rounding.exact_until in (0, NEVER)
    plain = Model.open(bundle, cache="fp32")
    assert plain.sessions.rounds_single_rows
    assert plain.rounding.attention_price > 0


def test_a_prompt_cache_is_for_one_type(int8: Model, bundle: Path, tmp_path: Path) -> None:
    sequence = int8.new_sequence()
    sequence.append(TOKEN_IDS)
    wanted = sequence.extend(Draft.empty()).copy()
    size = save_prefix(tmp_path / "prompt", sequence, len(TOKEN_IDS) - 1)
    plain = Model.open(bundle, cache="fp32")
    with pytest.raises(BundleError, match="made for another bundle or another --cache; remove it"):
        Prefix.open(tmp_path / "prompt", plain)
    again = int8.new_sequence()
    again.append(TOKEN_IDS)
    Prefix.open(tmp_path / "prompt", int8).fill(again)
    assert np.array_equal(again.extend(Draft.empty()), wanted)
    of_fp32 = plain.new_sequence()
    of_fp32.append(TOKEN_IDS)
    of_fp32.extend(Draft.empty())
    assert size < 0.5 * save_prefix(tmp_path / "other", of_fp32, len(TOKEN_IDS) - 1)


@pytest.fixture(scope="module")
def language_model(bundle: Path) -> LanguageModel:
    return load(bundle)


@pytest.mark.parametrize("decode", ["ngram", "suffix", "recycle", "jacobi", "lookahead", "self", "auto"])
def test_every_lossless_method_writes_plain_decodings_text(language_model: LanguageModel, decode: str) -> None:
    for prompt in PROMPTS:
        plain = language_model.generate(prompt, max_new_tokens=24, decode="plain")
        exact = False if decode == "lookahead" else None  # it drafts trees
        found = language_model.generate(prompt, max_new_tokens=24, decode=decode, exact=exact)
        assert found.token_ids == plain.token_ids


def test_a_batch_writes_what_each_prompt_does_alone_and_again(language_model: LanguageModel) -> None:
    alone = [language_model.generate(prompt, max_new_tokens=16).token_ids for prompt in PROMPTS]
    for _ in range(2):
        found = language_model.generate(PROMPTS, max_new_tokens=16)
        assert [one.token_ids for one in found] == alone


def test_a_seed_writes_the_same_text_again(language_model: LanguageModel) -> None:
    found = [
        language_model.generate(PROMPTS[0], temperature=0.8, seed=5, max_new_tokens=12).token_ids for _ in range(2)
    ]
    assert found[0] == found[1]

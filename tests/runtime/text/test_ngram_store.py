"""The n-gram store: its counts are those of a dictionary, and a file that is not right is refused by one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import BundleError, ConfigError, OutputError
from skipstone.runtime.text import NgramCounts, NgramStore, ngram_counts

Texts = list[list[int]]
TEXTS: Texts = [[1, 2, 3, 1, 2, 3, 1, 2, 4], [], [7], [1, 2, 3]]
texts_of_few_tokens = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=5)


def counted(texts: Texts, **options: int) -> NgramStore:
    counts = NgramCounts()
    for text in texts:
        counts.add(text)
    return counts.store(vocabulary="words", **options)


def by_dictionary(texts: Texts) -> dict[tuple[int, ...], Counter[int]]:
    """Return what followed each context of 1 to 5 tokens: the obvious way."""
    followers: dict[tuple[int, ...], Counter[int]] = {}
    for text in texts:
        for place, token_id in enumerate(text):
            for length in range(1, min(place, 5) + 1):
                followers.setdefault(tuple(text[place - length : place]), Counter())[token_id] += 1
    return followers


def known(store: NgramStore, context: Sequence[int]) -> tuple[dict[int, int], int] | None:
    found = store.continuations(context)
    if found is None:
        return None
    return dict(zip(found.token_ids.tolist(), found.counts.tolist(), strict=True)), found.total


@given(texts_of_few_tokens)
def test_counts_of_every_order_are_those_of_a_dictionary(texts: Texts) -> None:
    store, expected = counted(texts), by_dictionary(texts)
    assert len(store.table.keys) == len(expected)
    for context, followers in expected.items():
        assert known(store, context) == (dict(followers), followers.total())


@given(texts_of_few_tokens, st.lists(st.lists(st.integers(0, 6), min_size=5, max_size=5), min_size=1, max_size=4))
def test_shares_are_counts_of_a_token_by_counts_of_its_context(texts: Texts, contexts: Texts) -> None:
    token_ids = [6, 0, 3, 1]
    expected = by_dictionary(texts)
    shares = counted(texts).shares(np.array(contexts), np.array(token_ids))
    for row, context in enumerate(contexts):
        for length in range(1, 6):
            followers = expected.get(tuple(context[-length:]), Counter())
            wanted = [followers[token_id] / max(followers.total(), 1) for token_id in token_ids]
            np.testing.assert_allclose(shares[row, length - 1], wanted, rtol=1e-6)


@given(texts_of_few_tokens)
def test_pieces_are_put_together(texts: Texts) -> None:
    whole = counted(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "PIECE", 12)
        in_pieces = counted(texts)
    assert b"".join(in_pieces._pieces()) == b"".join(whole._pieces())


def test_tokens_beyond_16_bits_are_counted() -> None:
    assert known(counted([[70000, 5, 200000]]), [70000, 5]) == ({200000: 1}, 1)


def test_no_text_makes_a_store_that_knows_nothing(tmp_path: Path) -> None:
    for texts in ([], [[]], [[3]]):
        counted(texts).save(tmp_path / "store")
        store = NgramStore.open(tmp_path / "store", vocabulary="words")
        assert store.continuations([1]) is None
        assert not store.shares(np.array([[1, 2]]), np.array([3])).any()


def test_a_store_is_mapped_and_says_what_was_counted(tmp_path: Path) -> None:
    made = counted(TEXTS)
    size = made.save(tmp_path / "folder" / "store")
    store = NgramStore.open(tmp_path / "folder" / "store", vocabulary="words")
    assert size == (tmp_path / "folder" / "store").stat().st_size
    assert isinstance(store.table.keys.base, np.ndarray) and not store.table.keys.flags.writeable
    assert store.header == made.header and store.header.num_tokens == 13
    assert known(store, [1, 2]) == ({3: 3, 4: 1}, 4)
    assert known(store, [3, 1, 2, 3, 1]) == ({2: 1}, 1)


def test_contexts_of_other_lengths_are_unknown() -> None:
    store = counted(TEXTS)
    assert store.continuations([]) is None
    assert store.continuations([2, 3, 1, 2, 3, 1]) is None


def test_rare_continuations_leave_but_count_in_the_total() -> None:
    store = counted(TEXTS, min_count=2)
    assert known(store, [1, 2]) == ({3: 3}, 4)
    assert known(store, [3, 1, 2, 3, 1]) is None
    with pytest.raises(ConfigError, match="at least 1"):
        counted(TEXTS, min_count=0)


def test_a_limit_keeps_the_most_frequent(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [random.zipf(1.4, 4000).clip(1, 500).tolist()]
    for limit in (20_000, 40_000, 80_000):
        store = counted(texts, max_bytes=limit)
        size = store.save(tmp_path / "store")
        assert 0.8 * limit < size <= limit
        rarest = int(store.table.counts.min())
        kept = {(context, token_id) for context, token_id in zip(*_ngrams(store), strict=True)}
        whole = counted(texts)
        for context, token_id, count in zip(*_ngrams(whole), whole.table.counts.tolist(), strict=True):
            assert count <= rarest or (context, token_id) in kept


def test_a_limit_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no n-gram"):
        counted(TEXTS, max_bytes=10)


def _ngrams(store: NgramStore) -> tuple[list[int], list[int]]:
    keys = np.repeat(store.table.keys, np.diff(store.table.starts.astype(int)))
    return keys.tolist(), store.table.token_ids.tolist()


# Files that are refused


@pytest.fixture
def file(tmp_path: Path) -> Path:
    counted(TEXTS).save(tmp_path / "store")
    return tmp_path / "store"


def refusal(file: Path, vocabulary: str = "words") -> str:
    with pytest.raises(BundleError) as refused:
        NgramStore.open(file, vocabulary=vocabulary)
    message = str(refused.value)
    assert "\n" not in message and str(file) in message
    return message


def test_a_store_of_another_tokenizer_is_refused(file: Path) -> None:
    assert "another tokenizer" in refusal(file, vocabulary="letters")


def test_a_file_that_is_cut_off_anywhere_is_refused(file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content) - 63, 7):
        file.write_bytes(content[:length])
        assert "skipstone ngrams" in refusal(file)


def test_foreign_files_are_refused(file: Path, tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none")
    assert "cannot be read" in refusal(tmp_path)
    content = file.read_bytes()
    for found, other, message in (
        (b"skipstone n-gram", b"some other thing", "no n-gram store"),
        (b'"format_version": 1', b'"format_version": 9', "format 9"),
        (b'"num_tokens"', b'"num_takens"', "damaged"),
        (b'"<u8"', b'"<f8"', "damaged"),
    ):
        file.write_bytes(content.replace(found, other))
        assert message in refusal(file)


def test_a_place_that_cannot_be_written_is_named_and_the_old_store_stays(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        counted(TEXTS).save(tmp_path / "folder")
    assert not list(tmp_path.glob(".*partial*"))
    assert NgramStore.open(file, vocabulary="words").header.num_tokens == 13


def test_ranges_that_lead_out_of_the_store_are_refused_where_they_are_read() -> None:
    store = counted(TEXTS)
    starts = store.table.starts.copy()
    starts[1:] = len(store.table.counts) + 1
    damaged = NgramStore(replace(store.table, starts=starts), store.header)
    contexts = np.array([[text[0]] for text in TEXTS if text])
    with pytest.raises(BundleError, match="damaged"):
        damaged.shares(contexts, np.arange(4))

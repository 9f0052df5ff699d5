"""Caches of layers with a window hold the last rows of a text: the same logits as with all rows, however texts move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import leave_out
from family_cases import FULL, SLIDING
from family_cases_gemma import GEMMA3NS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import skipstone.exporters.families.reading
import skipstone.exporters.graph.rings
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.bundle import Bundle, RingLayout
from skipstone.runtime.engine import Blends, Draft, KVCache, Model, Prefix, Sequence, open_branches, save_prefix
from skipstone.runtime.generation import Generation, GenerationOptions, stream, stream_batch
from skipstone.runtime.methods import registered_drafters
from tests.runtime.engine.test_long_rope import PHI

UNIT = 8
CHUNK = 24
NUM_TOKENS = 250
TEXT: list[int] = np.random.default_rng(3).integers(3, 290, size=NUM_TOKENS).tolist()
# Else the factor is one of the context, which differs here.
LONG_ANGLES = PHI["rope_parameters"] | {"attention_factor": 0.8}
# By name: the family, precision, and settings.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "one window": ("mistral", "fp32", {"sliding_window": 5}),
    "mixed layers": (
        "gemma3_text",
        "fp32",
        {"sliding_window": 11, "layer_types": [SLIDING, SLIDING, FULL, SLIDING], "query_pre_attn_scalar": 16},
    ),
    "one window, int4": ("mistral", "int4", {"sliding_window": 5}),
    "one window, int8 cache and int4": ("mistral", "int4", {"sliding_window": 5, "num_hidden_layers": 4}),
    "shared caches": ("gemma3n_text", "fp32", {**GEMMA3NS["gemma3n_text"].config}),
    "angles of long texts": ("phi3", "fp32", PHI | {"sliding_window": 5, "rope_parameters": LONG_ANGLES}),
    "two windows": ("mistral", "fp32", {"sliding_window": 5, "num_hidden_layers": 3}),
    "standard operators": ("mistral", "fp32", {"sliding_window": 7}),
}
PAIRS = [kind for kind in KINDS if not kind.endswith("int4")]
OF_OTHER_GRAPHS = ("model", "async-model", "tree", "staged", "big-little", "sparse")
BRANCHING = ("lookahead",)
Export = Callable[[str, bool], Path]


@pytest.fixture(scope="session")
def export_kind(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Export:
    """Export a kind of model, whose windowed layers hold the last rows only or all."""

    def made(kind: str, has_rings: bool) -> Path:
        family, precision, config = KINDS[kind]
        # A context of its own, so that no other test takes the bundle with short rings.
        checkpoint = make_checkpoint(family, **config, max_position_embeddings=320 + has_rings)
        exits = "none" if family == "gemma3n_text" else "1,2"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(skipstone.exporters.graph.rings, "RING_UNIT", UNIT if has_rings else 1000)
            if kind == "two windows":
                patch.setattr(skipstone.exporters.families.reading, "_windows", lambda *given: (5, None, 11))
            options = {"target": "plain"} if kind == "standard operators" else {}
            options |= {"cache": "int8"} if "int8 cache" in kind else {}
            return make_bundle(checkpoint, precision=precision, exits=exits, **options)

    return made


def opened(bundle: Path, chunk: int = CHUNK) -> Model:
    return Model(Bundle.open(bundle), open_device("cpu", threads=1), prefill_chunk=chunk)


@pytest.fixture(scope="session", params=PAIRS)
def pair(request: pytest.FixtureRequest, export_kind: Export) -> tuple[Model, Model]:
    """A model with rings, and the same with all rows."""
    ringed, whole = (opened(export_kind(request.param, has_rings)) for has_rings in (True, False))
    assert ringed.new_cache().has_rings and not whole.new_cache().has_rings
    return ringed, whole


@pytest.fixture(scope="session", params=["one window, int4", "one window, int8 cache and int4"])
def exact(request: pytest.FixtureRequest, export_kind: Export) -> Model:
    model = leave_out(opened(export_kind(request.param, True)), 1)
    if model.rounding.rules is None:
        pytest.skip("rows of this model round by their number on this processor")
    return model


def logits_of(sequence: Sequence) -> NDArray[np.float32]:
    return sequence.extend(Draft.empty())[0].copy()


def fed(model: Model, token_ids: list[int], *, exact: bool = False) -> Sequence:
    sequence = model.new_sequence(exact=exact)
    sequence.append(token_ids)
    sequence.extend(Draft.empty())
    return sequence


def near(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-4)


# The same logits as with all rows


def test_a_long_text_has_the_logits_that_it_has_with_all_rows_token_by_token(pair: tuple[Model, Model]) -> None:
    for chunk in (1, 7, CHUNK, 100):
        ringed, whole = (model.new_sequence() for model in pair)
        for start in range(0, 200, chunk):
            for sequence in (ringed, whole):
                sequence.append(TEXT[start : start + chunk])
            near(logits_of(ringed), logits_of(whole))


moves = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("draft"), st.integers(1, 20), st.integers(0, 20)),
        st.tuples(st.just("back"), st.integers(1, 60)),
        st.tuples(st.just("peek"), st.integers(1, 20), st.integers(1, 2)),
        st.tuples(st.just("blends"), st.integers(1, 12)),
        st.tuples(st.just("fork"), st.integers(1, 12)),
    ),
    min_size=4,
    max_size=14,
)


def moved(sequence: Sequence, token_ids: list[int], move: tuple[Any, ...]) -> list[int]:
    """Do something to a sequence that holds some tokens; return those it holds then."""
    what, count, *more = move
    new = [token_id % 290 + 3 for token_id in TEXT[len(token_ids) % 50 :]][: min(count, sequence.room - 1)]
    if what in ("draft", "blends"):  # which cannot cross the place where angles change
        new = new[: max(0, sequence.draft_room - 1)]
        if not new:
            return token_ids
    if what == "append":
        sequence.append(new)
        return token_ids + new
    if what == "back":
        length = max(1, len(token_ids) - count)
        sequence.rollback(length)
        return token_ids[:length]
    if what == "draft":
        sequence.extend(Draft.chain(new, source="test"))
        accepted = [*new, 7][: more[0] + 1] if more[0] < len(new) else [*new, 7]
        sequence.commit(accepted)
        return token_ids + accepted
    waiting = sequence.token_ids[sequence.num_cached :]
    if what == "peek" and len(sequence._manifest.stages) > more[0] and sequence.num_waiting + count < sequence.room:
        for end in range(1, 1 + len(new)):
            sequence.peek([*waiting, *new[:end]], num_stages=more[0])
    if what == "blends":
        sequence.extend(Draft.empty())
        sequence.extend_by_blends(Blends.of([[token_id] for token_id in new], [[1.0]] * len(new)))
    if what == "fork":
        twin = sequence.fork()
        twin.append(new)
        twin.extend(Draft.empty())
    return token_ids


@settings(deadline=None, max_examples=25)
@given(moves=moves, start=st.integers(1, 90))
def test_whatever_is_done_to_a_text_it_has_the_logits_that_it_has_with_all_rows(
    pair: tuple[Model, Model], moves: list[tuple[Any, ...]], start: int
) -> None:
    ringed, whole = pair
    sequence, token_ids = ringed.new_sequence(), TEXT[:start]
    sequence.append(token_ids)
    for move in moves:
        token_ids = moved(sequence, token_ids, move)
        sequence.check()
        assert sequence.token_ids == token_ids
        near(logits_of(sequence), logits_of(fed(whole, token_ids)))


@settings(deadline=None, max_examples=15)
@given(moves=moves, start=st.integers(1, 90))
def test_the_bits_of_an_exact_text_do_not_tell_what_was_done_to_it(
    exact: Model, moves: list[tuple[Any, ...]], start: int
) -> None:
    sequence, token_ids = exact.new_sequence(exact=True), TEXT[:start]
    sequence.append(token_ids)
    for move in moves:
        token_ids = moved(sequence, token_ids, move)
        assert np.array_equal(logits_of(sequence), logits_of(fed(exact, token_ids, exact=True)))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_bits_of_an_exact_text_do_not_tell_its_pieces(exact: Model, chunk: int) -> None:
    in_pieces = opened(exact.bundle.path, chunk)
    for length in (30, 97, 200):
        first, second = (fed(model, TEXT[:length], exact=True) for model in (exact, in_pieces))
        assert np.array_equal(logits_of(first), logits_of(second))


def test_a_context_so_short_that_all_rows_fit_gives_the_same_bits(exact: Model) -> None:
    layout = exact.manifest.cache[0].ring_layout
    assert layout is not None
    short = exact.new_sequence(context_length=layout.num_working, exact=True)
    assert not short.cache.has_rings
    short.append(TEXT[: layout.num_working - 2])
    assert np.array_equal(logits_of(short), logits_of(fed(exact, short.token_ids, exact=True)))


def test_a_text_goes_back_by_as_many_tokens_as_leave_at_a_time_and_beyond_is_read_again(
    pair: tuple[Model, Model],
) -> None:
    sequence = fed(pair[0], TEXT[:120])
    for length in range(119, 119 - UNIT, -1):
        sequence.rollback(length)
        assert sequence.num_waiting == 1
        near(logits_of(sequence), logits_of(fed(pair[1], TEXT[:length])))
    sequence.rollback(60)
    assert sequence.num_cached == 0
    near(logits_of(sequence), logits_of(fed(pair[1], TEXT[:60])))


def test_a_stage_that_runs_far_ahead_of_the_others_costs_a_text_read_again_and_no_wrong_logits(
    pair: tuple[Model, Model],
) -> None:
    ringed, whole = pair
    if len(ringed.manifest.stages) == 1:
        pytest.skip("a model of one stage")
    for num_ahead in range(1, 4 * UNIT):
        sequence = fed(ringed, TEXT[:70])
        sequence.append(TEXT[70:71])
        sequence.peek([*TEXT[70 : 71 + num_ahead]], num_stages=1)
        sequence.append([9])
        near(logits_of(sequence), logits_of(fed(whole, [*TEXT[:71], 9])))


# All that reads a text


# Those of a small model or of experts, and those that branch, which windows refuse, are left out.
NAMES = [name for name in registered_drafters() if name not in (*OF_OTHER_GRAPHS, *BRANCHING)]


@pytest.mark.parametrize("decode", ["auto", *NAMES])
def test_every_drafter_gives_the_text_of_plain_decoding(exact: Model, decode: str) -> None:
    def generated(decode: str) -> list[int]:
        sequence = exact.new_sequence(exact=True)
        sequence.append(TEXT[:60])
        options = GenerationOptions(max_new_tokens=60, decode=decode, exact=True)
        return list(Generation.join(list(stream(exact, sequence, options))).token_ids)

    for _ in range(2):  # what a drafter keeps of the first text serves the second
        assert generated(decode) == generated("plain")


def test_texts_of_a_batch_cross_a_border_each_at_its_own_step(pair: tuple[Model, Model]) -> None:
    prompts = [TEXT[:1], TEXT[10:40], TEXT[5:26], TEXT[:90]]
    options = GenerationOptions(max_new_tokens=50)
    texts = []
    for model in pair:
        found: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
        for number, piece in stream_batch(model, prompts, options):
            found[number] += piece.token_ids
        texts.append(found)
    assert texts[0] == texts[1]


def test_branches_go_on_from_one_text_over_several_borders(pair: tuple[Model, Model]) -> None:
    found = []
    for model in pair:
        sequence, steps = fed(model, TEXT[:61]), []
        with open_branches(sequence, most=3, steps=40) as branches:
            branches.reorder([0, 0, 0])
            for step in range(40):
                steps.append(branches.step(TEXT[3 * step : 3 * step + 3]).copy())
                if step % 5 == 4:
                    branches.reorder([2, 0, 0])
        found.append(np.stack(steps))
        near(logits_of(sequence), logits_of(fed(model, TEXT[:61])))
    near(*found)


def test_branches_show_the_values_of_the_same_layer_as_the_text_though_their_short_caches_hold_all_rows(
    pair: tuple[Model, Model],
) -> None:
    model, text = pair[0], TEXT[:9]
    with open_branches(fed(model, text), most=2, steps=2) as branches:
        branches.reorder([0, 0])
        branches.step([20, 30])
        values = branches.last_values().copy()
    for value, token_id in zip(values, (20, 30), strict=True):
        near(value, fed(model, [*text, token_id]).cache.values(slice(10))[-1])


def test_the_values_of_all_rows_are_those_of_the_last_layer_that_has_them(pair: tuple[Model, Model]) -> None:
    mine, theirs = (fed(model, TEXT[:100]).cache for model in pair)
    values = mine.values(slice(100))
    kept = [number for number, ring in enumerate(mine.rings[0]) if ring is None]
    if kept:
        _, buffer = theirs.layers[kept[-1]]
        near(values, buffer.read()[0, :, :100].swapaxes(0, 1).reshape(100, -1))
    else:
        near(values, theirs.values(slice(100 - len(values), 100)))
        assert len(values) >= 5, "a window of 5"


# Files of rows


def test_a_prefix_file_holds_what_the_cache_holds_and_serves_a_text_that_begins_so(
    pair: tuple[Model, Model], tmp_path: Path
) -> None:
    ringed, whole = pair
    for length in (CHUNK, 2 * CHUNK, 5 * CHUNK):
        save_prefix(tmp_path / "rows", fed(ringed, TEXT[: length + 1]), length)
        text = [*TEXT[:length], *[5] * 40]
        sequence = ringed.new_sequence()
        sequence.append(text)
        assert Prefix.open(tmp_path / "rows", ringed).fill(sequence) == length
        near(logits_of(sequence), logits_of(fed(whole, text)))
    size = (tmp_path / "rows").stat().st_size
    assert size < 120 * ringed.manifest.cache_bytes_per_token * 0.8, "not all rows are there"


def test_a_text_may_leave_a_file_some_tokens_before_its_end(exact: Model, tmp_path: Path) -> None:
    for length in (10, 47, 120):
        save_prefix(tmp_path / "rows", fed(exact, TEXT[: length + 1], exact=True), length)
        text = [*TEXT[: length - UNIT], *[5] * 40]
        sequence = exact.new_sequence(exact=True)
        sequence.append(text)
        assert Prefix.open(tmp_path / "rows", exact).fill(sequence) == length - UNIT
        assert np.array_equal(logits_of(sequence), logits_of(fed(exact, text, exact=True)))


def test_a_text_that_leaves_a_file_long_before_its_end_is_read(pair: tuple[Model, Model], tmp_path: Path) -> None:
    ringed, whole = pair
    save_prefix(tmp_path / "rows", fed(ringed, TEXT[:121]), 120)
    sequence = ringed.new_sequence()
    sequence.append([*TEXT[:50], *[5] * 40])
    assert Prefix.open(tmp_path / "rows", ringed).fill(sequence) == 0
    near(logits_of(sequence), logits_of(fed(whole, sequence.token_ids)))


def test_a_prompt_cache_is_written_before_the_rows_of_the_prompt_leave(exact: Model, tmp_path: Path) -> None:
    cache, texts = PromptCache(exact, tmp_path / "rows"), []
    options = GenerationOptions(max_new_tokens=60, exact=True)
    for num_kept, num_read in ((58, 0), (0, 58)):
        sequence = exact.new_sequence(exact=True)
        sequence.append(TEXT[:60])
        cache.fill(sequence, options)
        pieces = list(cache.keeping(sequence, options, stream(exact, sequence, options)))
        assert (cache.num_kept, cache.num_read) == (num_kept, num_read)
        texts.append(Generation.join(pieces).token_ids)
    assert texts[0] == texts[1]


def test_rows_that_have_left_cannot_be_saved(pair: tuple[Model, Model], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of the first 40 tokens rows have left the cache; save them before"):
        save_prefix(tmp_path / "rows", fed(pair[0], TEXT[:120]), 40)


# Memory


def taken(cache: KVCache) -> int:
    return sum(buffer.read().nbytes for buffer in cache)


def test_a_longer_context_takes_no_more_memory_in_windowed_layers(pair: tuple[Model, Model]) -> None:
    model, _ = pair
    bytes_at = {length: taken(model.new_cache(context_length=length)) for length in (100, 200, 300)}
    more = bytes_at[300] - bytes_at[200]
    assert more == bytes_at[200] - bytes_at[100]
    kept = [layer for layer in model.manifest.cache if layer.ring is None]
    assert more == 100 * sum(layer.bytes_per_token for layer in kept)
    spare = 2 * model.manifest.cache_bytes_per_token
    for length in (10, 20, 100, 300):
        cache = model.new_cache(context_length=length)
        assert taken(cache) == model.manifest.cache_bytes(length) + spare


def test_layers_with_a_window_about_as_long_as_the_context_hold_all_rows(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    manifest = Model.open(make_bundle(make_checkpoint("mistral", sliding_window=200))).manifest
    assert [layer.ring for layer in manifest.cache] == [None] * 4
    assert manifest.cache_bytes(256) == 256 * manifest.cache_bytes_per_token


def test_rings_are_as_the_manifest_says(pair: tuple[Model, Model]) -> None:
    for layer in pair[0].manifest.cache:
        assert (layer.ring is None) == (layer.window is None)
        assert layer.ring_layout == (None if layer.window is None else RingLayout(layer.window, UNIT))

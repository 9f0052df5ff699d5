"""The comparison of `export --check`: a right bundle passes, a wrong one is found in the way in which it is wrong."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tokenizers
from altered_bundles import fit_manifest
from conftest import MakeBundle, MakeCheckpoint
from model_calls import watching
from numpy.typing import NDArray

from skipstone.check import LOGIT_TOLERANCE, Difference, Parity, compare, sample_tokens
from skipstone.errors import ConfigError
from skipstone.runtime.engine import BoundCall, Draft, Model
from skipstone.runtime.text import Tokenizer

Logits = NDArray[np.float32]
Reference = Callable[[Sequence[int]], Logits]
ReferenceLogits = Callable[[Path, tuple[int, ...]], Logits]
Damage = Callable[[onnx.ModelProto], None]
TEXT = np.random.default_rng(0).integers(3, 300, size=30).tolist()
NUM_GREEDY = 12
ALONE, PAIRS, SEVENS = "row by row", "2 rows at once", "7 rows at once"
WAYS = {"prompt", "in pieces", ALONE, PAIRS, SEVENS, "greedy text"}
# All positions of a text of more than 16 tokens turn three times slower than in a shorter one.
LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1 + pair / 8 for pair in range(8)],
        "long_factor": [3 + pair / 2 for pair in range(8)],
    },
}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "windows of 5": ("mistral", {"sliding_window": 5}),
    "wide windows": ("mistral", {"sliding_window": 30}),
    "longrope": ("llama", LONGROPE),
}


@pytest.fixture(scope="session")
def reference_of(reference_logits: ReferenceLogits) -> Callable[[Path], Reference]:
    return lambda folder: lambda token_ids: reference_logits(folder, tuple(token_ids))


@pytest.fixture
def check(tiny: Model, tiny_checkpoint: Path, reference_of: Callable[[Path], Reference]) -> Callable[[], Parity]:
    """Compare the tiny Llama, with whatever a test does to it, with its checkpoint."""
    return lambda: compare(tiny, reference_of(tiny_checkpoint), TEXT, num_greedy=NUM_GREEDY)


def with_manifest(model: Model, **changes: Any) -> Model:
    return Model(replace(model.bundle, manifest=replace(model.manifest, **changes)), model.device)


def wrong_ways(parity: Parity) -> set[str]:
    """The ways whose logits are outside of the tolerance, or no numbers."""
    return {name for name, way in parity.ways.items() if not way.max_logit_error <= parity.tolerance}


# A right bundle


@pytest.mark.parametrize("exits", ["none", "auto"])
@pytest.mark.parametrize(
    ("name", "past_window"), [("llama", None), ("windows of 5", True), ("wide windows", False), ("longrope", None)]
)
def test_nothing_is_found_wrong_with_a_right_bundle(
    name: str,
    past_window: bool | None,
    exits: str,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_of: Callable[[Path], Reference],
) -> None:
    model_type, config = SOURCES[name]
    checkpoint = make_checkpoint(model_type, **config)
    model = Model.open(make_bundle(checkpoint, exits=exits))
    parity = compare(model, reference_of(checkpoint), TEXT, num_greedy=NUM_GREEDY)
    assert parity.holds(0) and parity.holds(1e-6)
    assert parity.ways.keys() == WAYS
    assert (parity.num_tokens, parity.num_greedy, parity.past_window) == (30, NUM_GREEDY, past_window)
    assert parity.max_logit_error < LOGIT_TOLERANCE and 0 <= parity.kl < 1e-6 and parity.agreement == 1
    assert parity.largest_logit >= np.abs(reference_of(checkpoint)(TEXT)).max()


def test_a_rounded_bundle_is_near_in_kl_and_not_equal(
    tiny_checkpoint: Path, make_bundle: MakeBundle, reference_of: Callable[[Path], Reference]
) -> None:
    model = Model.open(make_bundle(tiny_checkpoint, precision="int8"))
    parity = compare(model, reference_of(tiny_checkpoint), TEXT, num_greedy=NUM_GREEDY)
    assert not parity.holds(0)
    assert 0 < parity.kl < 0.05
    assert parity.holds(0.05)


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_a_text_of_few_tokens_is_compared_in_every_way(
    num_tokens: int, tiny: Model, tiny_checkpoint: Path, reference_of: Callable[[Path], Reference]
) -> None:
    parity = compare(tiny, reference_of(tiny_checkpoint), TEXT[:num_tokens], num_greedy=1)
    assert parity.ways.keys() == WAYS
    assert parity.holds(0)


def test_every_way_feeds_calls_of_its_size(fed: list[tuple[int, ...]], check: Callable[[], Parity]) -> None:
    check()
    in_turn = {"prompt": [30], "in pieces": [10] * 3, ALONE: [1] * 30, PAIRS: [2] * 15, SEVENS: [7] * 4 + [2]}
    sizes = [size for way in in_turn.values() for size in way] + [30] + [1] * (NUM_GREEDY - 1)
    assert fed == [(1, size) for size in sizes]


# A wrong one: each damage is one that an exporter could do


def damaged(bundle: Path, folder: Path, change: Damage) -> Model:
    """Return the bundle with another graph; its manifest fits it."""
    shutil.copytree(bundle, folder)
    graph = onnx.load(folder / "stage-00.onnx", load_external_data=False)
    change(graph)
    (folder / "stage-00.onnx").write_bytes(graph.SerializeToString())
    return Model.open(fit_manifest(folder))


def in_last_attention(name: str, value: float) -> Damage:
    """Give an attribute of the attention of the last layer another value."""

    def change(graph: onnx.ModelProto) -> None:
        node = [node for node in graph.graph.node if node.op_type == "GroupQueryAttention"][-1]
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return change


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("windows of 5", in_last_attention("local_window_size", 6)),
        ("windows of 5", in_last_attention("local_window_size", -1)),
        ("llama", in_last_attention("scale", 0.26)),
        ("llama", in_last_attention("do_rotary", 0)),
    ],
    ids=["a window too wide", "no window", "another scale", "no rotary"],
)
def test_another_attention_in_one_layer_is_found_in_every_way(
    source: str,
    change: Damage,
    tmp_path: Path,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_of: Callable[[Path], Reference],
) -> None:
    model_type, config = SOURCES[source]
    checkpoint = make_checkpoint(model_type, **config)
    model = damaged(make_bundle(checkpoint), tmp_path / "damaged", change)
    parity = compare(model, reference_of(checkpoint), TEXT, num_greedy=NUM_GREEDY)
    assert not parity.holds(0)
    assert wrong_ways(parity) == WAYS


def test_one_changed_weight_is_found(
    tmp_path: Path, tiny_checkpoint: Path, make_bundle: MakeBundle, reference_of: Callable[[Path], Reference]
) -> None:
    folder = Path(shutil.copytree(make_bundle(tiny_checkpoint), tmp_path / "damaged"))
    weights = np.fromfile(folder / "weights.bin", np.float32)
    weights[np.abs(weights).argmax()] *= -1
    weights.tofile(folder / "weights.bin")
    parity = compare(Model.open(fit_manifest(folder)), reference_of(tiny_checkpoint), TEXT, num_greedy=NUM_GREEDY)
    assert not parity.holds(0)
    assert wrong_ways(parity) == WAYS


@pytest.mark.parametrize("border", [None, 15, 17])
def test_another_length_from_which_positions_change_is_found(
    border: int | None,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    reference_of: Callable[[Path], Reference],
) -> None:
    checkpoint = make_checkpoint("llama", **LONGROPE)
    model = with_manifest(Model.open(make_bundle(checkpoint)), long_rope_from=border)
    parity = compare(model, reference_of(checkpoint), TEXT, num_greedy=NUM_GREEDY)
    assert not parity.holds(0)
    assert "prompt" in wrong_ways(parity)


# A wrong device: what kernels get wrong in calls of some shapes only

CALLS: dict[str, tuple[Callable[[int, int], bool], set[str]]] = {
    "a single row behind a cache": (lambda rows, cached: rows == 1 and cached > 0, {ALONE, "greedy text"}),
    "several rows behind a cache": (lambda rows, cached: rows > 1 and cached > 0, {"in pieces", PAIRS, SEVENS}),
    "two rows behind a cache": (lambda rows, cached: rows == 2 and cached in range(1, 28), {PAIRS}),
    "seven rows behind a cache": (lambda rows, cached: rows == 7 and cached > 0, {SEVENS}),
    "more rows than seven": (lambda rows, cached: rows > 7, {"prompt", "in pieces", "greedy text"}),
    "a long prompt": (lambda rows, cached: rows == len(TEXT), {"prompt", "greedy text"}),
    "a cache longer than the text": (lambda rows, cached: cached >= len(TEXT), {"greedy text"}),
}


@pytest.mark.parametrize("value", [3.5, math.nan])
@pytest.mark.parametrize("case", CALLS)
def test_wrong_logits_are_found_in_the_way_in_which_they_show_and_in_no_other(
    case: str,
    value: float,
    check: Callable[[], Parity],
) -> None:
    is_wrong, ways = CALLS[case]

    def spoil(call: BoundCall, token_ids: NDArray[np.int64], lengths: NDArray[np.int64], logits: Logits) -> None:
        if is_wrong(token_ids.shape[1], int(lengths[0])):
            logits[-1, 5] = value

    with watching(spoil):
        parity = check()
    assert wrong_ways(parity) == ways
    assert not parity.holds(0)
    assert math.isnan(value) or parity.max_logit_error > 0.1


# The verdict

EQUAL = Difference(num_rows=8, max_logit_error=0.0, kl=0.0, agreement=1.0)
JUST, OVER = LOGIT_TOLERANCE, 1.001 * LOGIT_TOLERANCE


def parity_of(*ways: Difference, largest: float = 1.0, gap: float = 0.0) -> Parity:
    """What a comparison found, nothing wrong by default."""
    named = {str(index): way for index, way in enumerate([*ways, EQUAL])}
    return Parity(num_tokens=9, num_greedy=4, largest_logit=largest, choice_gap=gap, past_window=None, ways=named)


def off_by(error: float) -> Difference:
    return replace(EQUAL, max_logit_error=error)


def diverging_by(kl: float) -> Difference:
    return replace(EQUAL, kl=kl)


def few_rows_by(kl: float) -> Difference:
    return replace(EQUAL, num_rows=3, kl=kl)


@pytest.mark.parametrize(
    ("parity", "holds"),
    [
        (parity_of(off_by(JUST)), True),
        (parity_of(off_by(OVER)), False),
        (parity_of(EQUAL, off_by(OVER)), False),
        (parity_of(off_by(1.5 * JUST), largest=10.0), False),
        (parity_of(off_by(1.5 * JUST), largest=15.0), True),
        (parity_of(off_by(math.nan)), False),
        (parity_of(EQUAL, off_by(math.nan)), False),
        (parity_of(gap=2 * JUST), True),
        (parity_of(gap=2 * OVER), False),
        (parity_of(gap=math.nan), False),
        (parity_of(diverging_by(0.5)), True),
    ],
)
def test_a_bound_of_zero_asks_for_equal_logits_and_a_greedy_text(parity: Parity, holds: bool) -> None:
    assert parity.holds(0) is holds


@pytest.mark.parametrize(
    ("parity", "holds"),
    [
        (parity_of(diverging_by(0.02)), True),
        (parity_of(diverging_by(0.02001)), False),
        (parity_of(EQUAL, diverging_by(0.02001)), False),
        (parity_of(EQUAL, diverging_by(math.nan)), False),
        (parity_of(off_by(3.0), gap=1.0), True),
        (parity_of(few_rows_by(0.02001)), True),
        (parity_of(few_rows_by(0.2)), True),
        (parity_of(few_rows_by(0.2001)), False),
        (parity_of(few_rows_by(math.nan)), False),
    ],
)
def test_another_bound_is_for_the_worst_kl_alone_and_few_rows_may_lie_further_off(parity: Parity, holds: bool) -> None:
    assert parity.holds(0.02) is holds


def test_the_figures_are_those_of_the_worst_way() -> None:
    first = Difference(num_rows=8, max_logit_error=0.3, kl=0.02, agreement=0.9)
    second = Difference(num_rows=8, max_logit_error=0.1, kl=0.03, agreement=0.8)
    few = Difference(num_rows=3, max_logit_error=0.2, kl=0.04, agreement=0.7)
    for parity in (parity_of(first, second, few), parity_of(few, second, first)):
        assert (parity.max_logit_error, parity.kl, parity.agreement) == (0.3, 0.03, 0.8)


def test_figures_are_plain_data() -> None:
    parity = parity_of(off_by(0.1), diverging_by(0.2))
    data = json.loads(json.dumps(parity.to_json(), allow_nan=False))
    assert Parity.from_json(data | {"transformers": "5.23.0"}) == parity


def test_kl_and_agreement_are_those_of_the_distributions(tiny: Model) -> None:
    """A reference that says the same of every token, whatever the text."""
    wanted = np.random.default_rng(1).standard_normal(307).astype(np.float32)
    parity = compare(tiny, lambda token_ids: np.tile(wanted, (len(token_ids), 1)), TEXT, num_greedy=2)
    sequence = tiny.new_sequence()
    sequence.append(TEXT[:1])
    logits = sequence.extend(Draft.chain(TEXT[1:], source="test")).astype(np.float64)
    p = np.exp(wanted.astype(np.float64)) / np.exp(wanted.astype(np.float64)).sum()
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prompt = parity.ways["prompt"]
    assert prompt.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    assert prompt.max_logit_error == pytest.approx(np.abs(logits - wanted).max())
    assert prompt.agreement == (logits.argmax(axis=1) == wanted.argmax()).mean()
    assert parity.choice_gap == pytest.approx(max(wanted.max() - wanted[token_id] for token_id in greedy(tiny, 2)))


def greedy(model: Model, num_tokens: int) -> list[int]:
    text = list(TEXT)
    for _ in range(num_tokens):
        sequence = model.new_sequence()
        sequence.append(text)
        text.append(int(sequence.extend(Draft.empty()).argmax()))
    return text[len(TEXT) :]


# The text


@pytest.mark.parametrize(
    ("windows", "context_length", "num_tokens"),
    [
        ((None, None), 256, 48),
        ((None, None), 4096, 48),
        ((5, 5), 256, 48),
        ((30, None), 256, 54),
        ((100, 200), 256, 124),
        ((200, 100), 4096, 124),
        ((487, None), 4096, 511),
        ((488, None), 4096, 512),
        ((4096, 4096), 8192, 512),
        ((100, 200), 165, 100),
        ((None, None), 113, 48),
        ((None, None), 112, 47),
        ((None, None), 67, 2),
    ],
)
def test_the_text_is_longer_than_the_smallest_window_and_leaves_room_for_the_greedy_one(
    windows: tuple[int | None, ...], context_length: int, num_tokens: int, tiny: Model
) -> None:
    layer = tiny.manifest.cache[0]
    model = copy.copy(tiny)
    model.manifest = replace(
        tiny.manifest, context_length=context_length, cache=tuple(replace(layer, window=window) for window in windows)
    )
    token_ids = sample_tokens(model)
    assert len(token_ids) == num_tokens
    assert len(set(token_ids)) > 1
    assert all(0 <= token_id < 307 for token_id in token_ids)


@pytest.mark.parametrize("context_length", [1, 65, 66])
def test_a_context_without_room_for_two_tokens_and_the_greedy_ones_is_refused(context_length: int, tiny: Model) -> None:
    message = f"the check needs a context of 67 tokens and a tokenizer that knows letters, found {context_length} and"
    with pytest.raises(ConfigError, match=message):
        sample_tokens(with_manifest(tiny, context_length=context_length))


def test_a_tokenizer_that_knows_no_letter_is_refused(tiny: Model) -> None:
    model = copy.copy(tiny)
    model.tokenizer = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))
    with pytest.raises(ConfigError, match="a tokenizer that knows letters, found 256 and 0 tokens of its text"):
        sample_tokens(model)


def test_a_model_with_the_smallest_context_is_compared(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, reference_of: Callable[[Path], Reference]
) -> None:
    checkpoint = make_checkpoint(max_position_embeddings=67)
    model = Model.open(make_bundle(checkpoint))
    assert compare(model, reference_of(checkpoint), sample_tokens(model)).holds(0)

"""The head for drafts: part of the head's logits from the head's own bytes, and drafters that use it change no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from decoding import OPTIONS, PROMPT, VOCAB_SIZE, plain_text
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.api import plan
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters.checkpoints import ExitAdapter, adapters_bytes, open_checkpoint, weights_identity
from skipstone.exporters.families import read_architecture
from skipstone.exporters.graph import FLOAT, GraphPen, OrtKernels, WeightFile
from skipstone.exporters.graph.linear import Linear
from skipstone.exporters.stages import parse_draft_head
from skipstone.quant import QuantizedMatrix, Recipe, quantize
from skipstone.runtime.decoding import decode
from skipstone.runtime.decoding.verify import rule_named
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.engine.draft_vocabulary import MOST_EXTRA, REFRESH_EVERY, DraftVocabulary
from skipstone.runtime.methods.depth import open_self
from skipstone.runtime.sampling import SamplingOptions
from tests.runtime.methods.depth.test_self_draft import context_of, law_of_texts, run, trained

NUM_FIRST = 77  # no multiple of anything
# Rows of the prompt are multiplied in float32, those of the head round activations too.
BOUNDS = {"fp32": 1e-5, "int8": 0.03, "int4": 0.03}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "capped": ("gemma2", {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}),
}
Rows = NDArray[np.float32]


@pytest.fixture(scope="module", params=list(KINDS))
def checkpoint(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    model_type, config = KINDS[request.param]
    return make_checkpoint(model_type, **config)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Model:
    return Model.open(make_bundle(tiny_checkpoint, exits="auto", draft_head=NUM_FIRST))


def logits_of(folder: Path, file: str, hidden: Rows, **inputs: Any) -> list[Rows]:
    feeds = {"hidden": hidden, "rows": np.arange(hidden.shape[1]), **inputs}
    found: list[Rows] = open_device("cpu").open_session(folder / file).run(None, feeds)
    return found


# The graph


@pytest.mark.parametrize("extra_ids", [[], [NUM_FIRST], [VOCAB_SIZE - 1, 200, 3, 200]], ids=len)
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_its_logits_are_those_of_the_head(
    checkpoint: Path, make_bundle: MakeBundle, precision: str, extra_ids: list[int]
) -> None:
    folder = make_bundle(checkpoint, precision=precision, exits="auto", draft_head=NUM_FIRST)
    hidden = np.random.default_rng(0).normal(size=(1, 2, 52)).astype(np.float32)
    (wanted,) = logits_of(folder, "head.onnx", hidden)
    first, extra = logits_of(folder, "draft-head.onnx", hidden, extra_ids=np.array(extra_ids, np.int64))
    assert (first.shape, extra.shape) == ((2, NUM_FIRST), (2, len(extra_ids)))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(first, wanted[:, :NUM_FIRST], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(extra, wanted[:, extra_ids], rtol=0, atol=BOUNDS[precision] * scale)


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_it_brings_no_weight_of_its_own(checkpoint: Path, make_bundle: MakeBundle, precision: str) -> None:
    folder = make_bundle(checkpoint, precision=precision, exits="auto", draft_head=NUM_FIRST)
    without = make_bundle(checkpoint, precision=precision, exits="auto")
    assert (folder / "weights.bin").stat().st_size == (without / "weights.bin").stat().st_size
    assert (folder / "draft-head.onnx").stat().st_size < 4000
    tensors = onnx.load(folder / "draft-head.onnx", load_external_data=False).graph.initializer
    stored = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert any(NUM_FIRST in tensor.dims for tensor in stored)
    assert not (without / "draft-head.onnx").exists()


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_the_model_itself_stays_as_it_is(checkpoint: Path, make_bundle: MakeBundle, precision: str) -> None:
    found, wanted = (
        Model.open(make_bundle(checkpoint, precision=precision, exits="auto", **options)).new_sequence()
        for options in ({"draft_head": NUM_FIRST}, {})
    )
    for sequence in (found, wanted):
        sequence.append(PROMPT)
    np.testing.assert_allclose(found.extend(Draft.empty()), wanted.extend(Draft.empty()), rtol=0, atol=1e-4)


def test_columns_in_another_order_are_multiplied_by_their_own_inputs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrix, x = random.normal(size=(40, 64)).astype(np.float32), random.normal(size=(3, 64)).astype(np.float32)
    order, ids = random.permutation(64), np.array([39, 2])
    stored = quantize(np.ascontiguousarray(matrix[:, order]), bits=8, block_size=32, symmetric=False)
    own = {name: getattr(stored, name) for name in ("data", "scales", "zero_points", "bits", "block_size", "shape")}
    with WeightFile(tmp_path / "weights.bin") as file:
        pen = GraphPen("test", file)
        inputs = pen.input("x", FLOAT, ("R", 64)), pen.input("ids", ir.DataType.INT64, ("P",))
        kernels = OrtKernels(pen)
        linear = Linear(kernels, Recipe.named("int8"))
        outputs = linear.some_rows(inputs[0], "head", lambda: QuantizedMatrix(**own, order=order), 11, inputs[1])
        for name, value in zip(("first", "extra"), outputs, strict=True):
            pen.output(value, name, FLOAT, ("R", name))
        ir.save(kernels.model(), tmp_path / "test.onnx")
    first, extra = open_device("cpu").open_session(tmp_path / "test.onnx").run(None, {"x": x, "ids": ids})
    wanted = x @ matrix.T
    np.testing.assert_allclose(first, wanted[:, :11], rtol=0, atol=0.3)
    np.testing.assert_allclose(extra, wanted[:, ids], rtol=0, atol=0.3)
    assert np.abs(wanted).max() > 10, "or the bounds say nothing"


# Which tokens it knows


@given(st.lists(st.integers(0, 600), max_size=700), st.integers(1, 599))
def test_it_knows_the_last_different_tokens_beyond_the_first(text: list[int], num_first: int) -> None:
    vocabulary = DraftVocabulary(open_device(), num_first=num_first, vocab_size=601)
    vocabulary.follow(text)
    wanted: list[int] = []
    for token_id in reversed(text):
        if token_id >= num_first and token_id not in wanted:
            wanted.append(token_id)
    assert vocabulary.extra_ids.tolist() == wanted[:MOST_EXTRA]


def test_it_looks_again_when_the_text_has_grown_or_is_another() -> None:
    vocabulary = DraftVocabulary(open_device(), num_first=10, vocab_size=100)
    text = [1, 50]
    vocabulary.follow(text)
    text += [60] * (REFRESH_EVERY - 1)
    vocabulary.follow(text)
    assert vocabulary.extra_ids.tolist() == [50]
    text.append(1)
    vocabulary.follow(text)
    assert vocabulary.extra_ids.tolist() == [60, 50]
    del text[2:]
    vocabulary.follow(text)
    assert vocabulary.extra_ids.tolist() == [50]
    vocabulary.follow([70, 50])
    assert vocabulary.extra_ids.tolist() == [50, 70]


def peeked(model: Model, text: SequenceOf[int], **options: Any) -> Rows:
    sequence = model.new_sequence()
    sequence.append(text)
    return sequence.peek(text, **options).copy()


@pytest.mark.parametrize("then", [(), (2,), (2, 3)])
def test_a_peek_gives_the_known_tokens_the_exits_logits_and_the_others_none(
    model: Model, then: tuple[int, ...]
) -> None:
    for text in ([1, 50, 60, 70], [1, 300, 60, 200, 300], [250]):
        found, wanted = (peeked(model, text, num_stages=2, then=then, drafting=drafting) for drafting in (True, False))
        known = [*range(NUM_FIRST), *(token_id for token_id in {*text} if token_id >= NUM_FIRST)]
        assert np.flatnonzero(found > -np.inf).tolist() == sorted(known), "no other text's either"
        np.testing.assert_allclose(found[known], wanted[known], rtol=0, atol=1e-4)


def test_a_text_that_is_fed_in_pieces_is_peeked_at_with_it(model: Model) -> None:
    model = Model(model.bundle, model.device, prefill_chunk=3)
    text = [1, 50, 60, 70, 300, 61, 62, 301]
    found, wanted = (peeked(model, text, num_stages=2, drafting=drafting) for drafting in (True, False))
    known = [*range(NUM_FIRST), 300, 301]
    assert np.flatnonzero(found > -np.inf).tolist() == known
    np.testing.assert_allclose(found[known], wanted[known], rtol=0, atol=1e-4)


def test_an_exit_that_goes_on_from_an_earlier_one_uses_it_too(model: Model) -> None:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    sequence.peek(PROMPT, num_stages=1)
    found = sequence.peek(PROMPT, num_stages=2, drafting=True)[:NUM_FIRST]
    np.testing.assert_allclose(found, peeked(model, PROMPT, num_stages=2)[:NUM_FIRST], rtol=0, atol=1e-4)


def test_the_adapter_of_an_exit_stands_before_it(
    tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path, model: Model
) -> None:
    random, about = np.random.default_rng(0), open_checkpoint(tiny_checkpoint)
    gain, down, up = (random.normal(size=shape).astype(np.float32) for shape in (52, (4, 52), (52, 4)))
    weights = weights_identity(about, read_architecture(about.config, about.tensors.names()))
    file = tmp_path / "adapters.safetensors"
    file.write_bytes(adapters_bytes({2: ExitAdapter(gain=gain, down=down, up=up)}, weights=weights))
    adapted = Model.open(make_bundle(tiny_checkpoint, exits="auto", draft_head=NUM_FIRST, exit_adapters=file))
    pruned = peeked(adapted, PROMPT, num_stages=2, drafting=True)[:NUM_FIRST]
    np.testing.assert_allclose(pruned, peeked(adapted, PROMPT, num_stages=2)[:NUM_FIRST], rtol=0, atol=1e-4)
    assert np.abs(pruned - peeked(model, PROMPT, num_stages=2)[:NUM_FIRST]).max() > 0.1


def test_peeks_with_and_without_it_take_turns(model: Model) -> None:
    sequence = model.new_sequence(exact=True)
    sequence.append(PROMPT)
    for length in range(1, 6):
        text = [*PROMPT, *range(290, 290 + length)]
        pruned = sequence.peek(text, num_stages=1, drafting=True).copy()
        whole = sequence.peek(text, num_stages=1)
        np.testing.assert_allclose(pruned[:NUM_FIRST], whole[:NUM_FIRST], rtol=0, atol=1e-4)
        assert (pruned[NUM_FIRST:] == -np.inf).all(), "guesses are not the text's"
    np.testing.assert_array_equal(sequence.extend(Draft.empty()), fresh_logits(model))


def fresh_logits(model: Model) -> Rows:
    sequence = model.new_sequence(exact=True)
    sequence.append(PROMPT)
    return sequence.extend(Draft.empty()).copy()


def test_it_is_opened_by_the_first_draft_and_not_before(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    model = Model.open(make_bundle(tiny_checkpoint, exits="auto", draft_head=NUM_FIRST))
    opened = list[str]()

    class Noting(type(model.device)):  # type: ignore[misc]
        def open_session(self, path: Path) -> Any:
            opened.append(path.name)
            return super().open_session(path)

    model.sessions.device = Noting(threads=model.device.threads)
    peeked(model, PROMPT, num_stages=2)
    assert opened == []
    for _ in range(2):
        peeked(model, PROMPT, num_stages=2, drafting=True)
    assert opened == ["draft-head.onnx"]


# Texts


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_self_writes_the_plain_text(model: Model, options: SamplingOptions) -> None:
    context = context_of(model, options)
    text, steps = run(context, trained(open_self(context)), max_new_tokens=24)
    assert text == plain_text(model, options, 24)
    assert sum(step.num_drafted for step in steps) > 1
    assert any(token_id >= NUM_FIRST for token_id in text[len(PROMPT) :]), "or the test says nothing"


def test_exact_logits_are_the_same_bits_drafted_or_not(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    model = Model.open(make_bundle(tiny_checkpoint, precision="int4", exits="auto", draft_head=NUM_FIRST))
    context = context_of(model, OPTIONS[0], exact=True)
    plain = model.new_sequence(exact=True)
    plain.append(PROMPT)
    accept, num_drafted = rule_named("match", context.sampler, context.sequence.token_ids), 0
    drafter = trained(open_self(context))
    for step in decode(context.sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=()):
        num_drafted += step.num_drafted
        for token_id, row in zip(step.token_ids, step.logits, strict=False):
            np.testing.assert_array_equal(row, plain.extend(Draft.empty())[0])
            plain.commit([token_id])
    assert plain.token_ids == context.sequence.token_ids
    assert num_drafted > 1


def error_of(counts: Counter[int], law: dict[int, float], total: int) -> float:
    """Return chi-square against the law, in standard deviations from what it should be."""
    cells = [token for token, chance in law.items() if chance * total >= 5]
    chi = sum((counts[token] - law[token] * total) ** 2 / (law[token] * total) for token in cells)
    return float((chi - len(cells)) / (2 * len(cells)) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_tokens_that_it_does_not_know_keep_their_chance(model: Model, rule: str) -> None:
    total, options = 1500, SamplingOptions(temperature=1.0, top_k=12)
    # The first token comes with the prompt, and the second is the first that a draft may change.
    pairs = law_of_texts(model, options, 2)
    law = {token: sum(chance for path, chance in pairs.items() if path[1] == token) for token in range(VOCAB_SIZE)}
    unknown = sum(chance for token, chance in law.items() if token >= NUM_FIRST)
    assert 0.2 < unknown < 0.98, "both kinds of tokens come"
    counts: Counter[int] = Counter()
    num_drafted = 0
    for seed in range(total):
        context = context_of(model, SamplingOptions(temperature=1.0, top_k=12, seed=seed), rule=rule)
        text, steps = run(context, trained(open_self(context)), max_new_tokens=3, look=lambda sequence: None)
        num_drafted += steps[1].num_drafted
        counts[text[len(PROMPT) + 1]] += 1
    assert num_drafted >= total
    assert error_of(counts, law, total) < 4
    assert error_of(Counter({token: count for token, count in counts.items() if token < NUM_FIRST}), law, total) > 10


# What opens, and what is refused


@pytest.mark.parametrize(
    ("wanted", "vocab_size", "found"),
    [
        ("auto", 4096, 1024),
        ("auto", 128256, 32064),
        ("auto", 151936, 38016),
        ("auto", 100, 64),
        ("1", 2, 1),
        (76, 77, 76),
    ],
)
def test_auto_is_a_quarter_in_multiples_of_64(wanted: str | int, vocab_size: int, found: int) -> None:
    assert parse_draft_head(wanted, vocab_size=vocab_size, num_stages=2) == found


@pytest.mark.parametrize("wanted", ["0", "-1", "307", 308, "auto "])
def test_a_number_outside_of_the_vocabulary_is_refused(tiny_checkpoint: Path, wanted: str | int) -> None:
    with pytest.raises(ConfigError, match=r"--draft-head (takes auto or a number|.*1 to 306 of 307 tokens)"):
        plan(tiny_checkpoint, exits="auto", draft_head=wanted)


def test_auto_of_a_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 63 of 64"):
        parse_draft_head("auto", vocab_size=64, num_stages=2)


def test_a_model_in_one_piece_says_what_is_missing(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"--draft-head auto is for drafts.*add --exits auto"):
        plan(tiny_checkpoint, draft_head="auto")


def test_a_graph_of_optimum_has_none(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="draft-head auto does not go with optimum"):
        plan(tiny_checkpoint, via="optimum", draft_head="auto")


def test_the_command_line_has_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = CommandLine(monkeypatch, capfd)
    made = command("export", tiny_checkpoint, "-o", tmp_path / "out", "--exits", "2", "--draft-head", "auto", "--quiet")
    assert made.code == 0
    model = Model.open(tmp_path / "out")
    assert model.manifest.draft_head == "draft-head.onnx"
    assert np.isfinite(peeked(model, [1], num_stages=1, drafting=True)).sum() == 64
    refused = command("export", tiny_checkpoint, "-o", tmp_path / "other", "--exits", "2", "--draft-head", "400")
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert "1 to 306 of 307" in refused.err

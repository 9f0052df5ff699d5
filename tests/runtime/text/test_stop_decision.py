"""Where a text ends that the model is unsure of: the same place with every method, and nowhere when it is off."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeBundle
from decoding import GREEDY, OPTIONS, PROMPT, VOCAB_SIZE, WildDrafter, plain_text
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate import STOP_SETTINGS, evaluate_stop
from skipstone.language_model import LanguageModel
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, stream, stream_batch
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.text import StopDecision

WithStopIds = Callable[[Model, Collection[int]], Model]
NEW_TOKENS = 24


def chances(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the highest probability of each row, the obvious way."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray((weights / weights.sum(axis=1, keepdims=True)).max(axis=1))


# The rule


@given(
    logits=arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(-20, 20)),
    below=st.floats(0, 1),
    cuts=st.lists(st.integers(1, 3), min_size=6, max_size=6),
)
def test_a_text_ends_before_the_first_product_that_is_too_small(
    logits: NDArray[np.float32], below: float, cuts: list[int]
) -> None:
    """However its rows come in pieces."""
    products = np.cumprod(chances(logits))
    if np.isclose(products, below, rtol=1e-9).any():
        return
    wanted = next((place for place, product in enumerate(products) if product < below), len(logits))
    decision, start, found = StopDecision(below), 0, 0
    for size in cuts:
        piece = logits[start : start + size]
        taken = decision.push(piece)
        start, found = start + size, found + taken
        if taken < len(piece):
            break
    assert found == wanted


def test_zero_never_ends_a_text_and_nothing_is_read() -> None:
    decision = StopDecision(0)
    assert decision.push(np.full((5, 3), np.nan, np.float32)) == 5
    assert decision.promise is None


@pytest.mark.parametrize("below", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(below: float) -> None:
    with pytest.raises(ConfigError, match="stop_below must be between 0 and 1"):
        GenerationOptions(stop_below=below)


# In a stream


def pieces_of(
    model: Model, options: GenerationOptions, drafter: Drafter | None = None, prompt: SequenceOf[int] = PROMPT
) -> tuple[list[Piece], Sequence]:
    sequence = model.new_sequence(exact=options.exact)
    sequence.append(prompt)
    return list(stream(model, sequence, options, drafter=drafter)), sequence


def where_it_ends(model: Model, text: SequenceOf[int], below: float) -> int:
    """Return how many tokens behind the prompt stand, the whole text through a new sequence for every one of them."""
    product = 1.0
    for length in range(len(PROMPT), len(text)):
        sequence = model.new_sequence()
        sequence.append(text[:length])
        product *= float(chances(sequence.extend(Draft.empty()))[0])
        if product < below:
            return length - len(PROMPT)
    return len(text) - len(PROMPT)


@pytest.mark.parametrize("sampling", OPTIONS)
@pytest.mark.parametrize("below", [1.0, 0.2, 1e-3, 1e-8])
def test_the_text_is_the_beginning_of_plain_decodings(
    model: Model, with_stop_ids: WithStopIds, sampling: SamplingOptions, below: float
) -> None:
    endless = with_stop_ids(model, [])
    whole = plain_text(endless, sampling, NEW_TOKENS)
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, sampling=sampling, decode="plain", stop_below=below)
    pieces, sequence = pieces_of(endless, options)
    made, wanted = Generation.join(pieces), where_it_ends(endless, whole, below)
    assert list(made.token_ids) == whole[len(PROMPT) :][:wanted]
    assert made.text == endless.tokenizer.decode(made.token_ids)
    assert made.finish_reason == ("unsure" if wanted < NEW_TOKENS else "length")
    assert sequence.token_ids == [*PROMPT, *made.token_ids]
    assert made.stats.new_tokens == len(made.token_ids)
    assert made.stats.approximate == f"ends where the chance of the whole text falls below {below:g}"


@settings(max_examples=40, deadline=None)
@given(below=st.floats(-12, 0).map(lambda power: 10.0**power), seed=st.integers(0, 2**32 - 1), share=st.floats(0.3, 1))
def test_with_drafts_the_text_ends_at_the_same_place(model: Model, below: float, seed: int, share: float) -> None:
    """Bit by bit: exact rows give drafted tokens the logits that they have alone."""
    sampling = OPTIONS[seed % len(OPTIONS)]
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, sampling=sampling, exact=True, stop_below=below)
    plain, _ = pieces_of(model, replace(options, decode="plain"))
    whole = plain_text(model, sampling, NEW_TOKENS)
    drafted, sequence = pieces_of(model, options, WildDrafter(whole, seed, branches=False, share=share))
    wanted, found = Generation.join(plain), Generation.join(drafted)
    assert (found.token_ids, found.text, found.finish_reason) == (wanted.token_ids, wanted.text, wanted.finish_reason)
    assert sequence.token_ids == [*PROMPT, *found.token_ids]
    sequence.check()


@pytest.mark.parametrize("decode", ["plain", "auto", "ngram,suffix", "recycle"])
def test_off_it_changes_nothing(model: Model, decode: str) -> None:
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, decode=decode, stop_below=0.0)
    made = Generation.join(pieces_of(model, options)[0])
    assert [*PROMPT, *made.token_ids] == plain_text(model, GREEDY, NEW_TOKENS, model.manifest.stop_ids)
    assert made.finish_reason in ("stop", "length") and made.stats.approximate is None


def test_a_completion_that_is_not_worth_beginning_is_one_empty_piece(tiny: Model) -> None:
    pieces, sequence = pieces_of(tiny, GenerationOptions(stop_below=1.0, logprobs=2))
    (piece,) = pieces
    assert (piece.text, piece.token_ids, piece.logprobs, piece.finish_reason) == ("", (), (), "unsure")
    assert piece.stats is not None
    assert (piece.stats.new_tokens, piece.stats.model_calls, piece.stats.depths) == (0, 1, {})
    assert sequence.token_ids == [*PROMPT]
    sequence.append([5])  # the sequence can go on
    assert sequence.extend(Draft.empty()).shape == (1, VOCAB_SIZE)


def test_a_stop_token_before_the_unsure_one_ends_the_text_as_ever(tiny: Model, with_stop_ids: WithStopIds) -> None:
    whole = plain_text(tiny, GREEDY, NEW_TOKENS)[len(PROMPT) :]
    below = float(np.prod(chances_along(tiny, whole[:4])))
    sure = GenerationOptions(max_new_tokens=NEW_TOKENS, stop_below=below * 0.99)
    unsure = GenerationOptions(max_new_tokens=NEW_TOKENS, stop_below=below * 1.01)
    at = whole.index(whole[3])
    stopping = with_stop_ids(tiny, [whole[3]])
    made = Generation.join(pieces_of(stopping, sure)[0])
    assert (made.token_ids, made.finish_reason) == (tuple(whole[: at + 1]), "stop")
    if at == 3:
        made = Generation.join(pieces_of(stopping, unsure)[0])
        assert (made.token_ids, made.finish_reason) == (tuple(whole[:3]), "unsure")


def chances_along(model: Model, made: SequenceOf[int]) -> NDArray[np.float64]:
    sequence = model.new_sequence()
    sequence.append([*PROMPT])
    return chances(sequence.extend(Draft.chain([*made[:-1]], source="test")))


def test_what_a_stop_string_held_back_is_shown(tiny: Model, with_stop_ids: WithStopIds) -> None:
    endless = with_stop_ids(tiny, [])
    free = Generation.join(pieces_of(endless, GenerationOptions(max_new_tokens=NEW_TOKENS, stop_below=1e-6))[0])
    assert free.finish_reason == "unsure" and free.text
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, stop_below=1e-6, stop=(free.text[-1] + "never",))
    assert Generation.join(pieces_of(endless, options)[0]).text == free.text


def test_the_prompts_of_a_batch_end_where_they_end_alone(model: Model) -> None:
    prompts, lengths = np.random.default_rng(1).integers(3, 300, size=(6, 7)).tolist(), set()
    for below in (0.05, 1e-3, 1e-6):
        options = GenerationOptions(max_new_tokens=NEW_TOKENS, decode="plain", stop_below=below, logprobs=1)
        pieces: list[list[Piece]] = [[] for _ in prompts]
        for index, piece in stream_batch(model, prompts, options):
            pieces[index].append(piece)
        for prompt, of_prompt in zip(prompts, pieces, strict=True):
            found, wanted = Generation.join(of_prompt), Generation.join(pieces_of(model, options, prompt=prompt)[0])
            assert (found.text, found.token_ids) == (wanted.text, wanted.token_ids)
            assert found.finish_reason == wanted.finish_reason
            assert len(found.logprobs) == len(found.token_ids) == found.stats.new_tokens
            assert found.stats.approximate == wanted.stats.approximate is not None
            lengths |= {len(found.token_ids)} if found.finish_reason == "unsure" else set()
    assert 0 in lengths and len(lengths) > 2


def test_an_approximate_method_says_both_and_ends_too(tiny_stages: Model) -> None:
    options = GenerationOptions(decode="exit", min_agreement=1.0, max_new_tokens=NEW_TOKENS, stop_below=0.01)
    made = Generation.join(pieces_of(tiny_stages, options)[0])
    plain = GenerationOptions(decode="plain", max_new_tokens=NEW_TOKENS, stop_below=0.01)
    assert made.token_ids == Generation.join(pieces_of(tiny_stages, plain)[0]).token_ids
    assert made.stats.approximate is not None
    assert made.stats.approximate.startswith("all tokens as the full model's")
    assert made.stats.approximate.endswith("; ends where the chance of the whole text falls below 0.01")


# Figures


def test_the_figures_are_those_of_the_completions(tiny: Model) -> None:
    model = LanguageModel(tiny)
    prompt = model.encode("def add(first, second):")[:6]
    own = Generation.join(pieces_of(tiny, GenerationOptions(max_new_tokens=8), prompt=prompt)[0])
    texts = [tiny.tokenizer.decode([*prompt, *own.token_ids]), "The quick brown fox jumps over the lazy dog. " * 4]
    seen: list[int] = []
    rows = evaluate_stop(tiny, texts, prompt_tokens=6, new_tokens=8, num_prompts=5, on_progress=seen.append)
    assert [row.stop_below for row in rows] == [*STOP_SETTINGS]
    assert (rows[0].suppressed, rows[0].saved) == (0.0, 0.0) and 0 < rows[0].tokens <= 8
    assert sum(seen) == 5
    for one, other in itertools.pairwise(rows):  # stricter: never more shown
        assert one.suppressed <= other.suppressed and one.saved <= other.saved
    for row in rows:
        assert 0 <= row.precision <= 1 and row.seconds > 0


def test_a_completion_counts_as_right_while_it_is_how_the_text_goes_on(tiny: Model) -> None:
    """The text is the model's own, so every completion is, down to the one that says nothing."""
    text, size = tiny.tokenizer.decode(made_by(tiny, 40)), 4
    token_ids = tiny.tokenizer.encode(text)
    (row,) = evaluate_stop(tiny, [text], [1e-3], prompt_tokens=len(token_ids) - size, new_tokens=size, num_prompts=1)
    whole = Generation.join(
        pieces_of(tiny, GenerationOptions(max_new_tokens=size, stop_below=1e-3), prompt=token_ids[:-size])[0]
    )
    shown = [*whole.token_ids]
    assert row.suppressed == float(not shown)
    assert row.tokens == len(shown)
    assert row.precision == float(bool(shown) and shown == token_ids[-size:][: len(shown)])


def made_by(model: Model, num_tokens: int) -> list[int]:
    return [*Generation.join(pieces_of(model, GenerationOptions(max_new_tokens=num_tokens))[0]).token_ids]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["short"], {}, "too short; one of at least 80 tokens"),
        (["x" * 400], {"prompt_tokens": 300}, "have 316 tokens, the context 256"),
        (["x" * 400], {"new_tokens": 0}, "must be at least 1"),
        (["x" * 400], {"settings": [2.0]}, "stop_below must be between 0 and 1"),
    ],
)
def test_figures_of_nothing_are_refused(
    tiny: Model, fed: list[tuple[int, ...]], texts: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_stop(tiny, texts, **options)  # type: ignore[arg-type]
    assert fed == []


# Command line


def test_the_command_names_such_a_text_approximate(
    cli: CommandLine, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(tiny_checkpoint)
    command = ("generate", bundle, "-p", "def add(first, second):", "-n", 20, "--stop-below", 0.01)
    outcome = cli(*command)
    told = json.loads(cli(*command, "--json").out)
    assert (outcome.code, outcome.out) == (0, told["text"] + "\n")
    assert "approximate: ends where the chance of the whole text falls below 0.01\n" in outcome.err
    assert told["finish_reason"] == "unsure" and len(told["token_ids"]) < 20
    empty = cli(*command[:-1], 1, "--stats")
    assert (empty.code, empty.out) == (0, "\n")
    refused = cli(*command[:-1], 2)
    assert (refused.code, refused.err) == (2, "skipstone: stop_below must be between 0 and 1, got 2; 0 is off\n")


def test_completions_are_judged_from_the_command_line(cli: CommandLine, tiny: Model, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a text that is long enough for some completions of its pieces. " * 30, encoding="utf-8")
    bundle = str(tiny.bundle.path)
    shown = cli("eval", "stops", bundle, "--text", text, "--stop-below", "0,0.5")
    title, head, _, *rows = shown.out.splitlines()
    assert title.startswith("approximate decoding: completions") and "suppressed" in head
    assert [row.split("|")[1].strip() for row in rows] == ["0", "0.5"]
    told = json.loads(
        cli("eval", "stops", bundle, "--text", text, "--stop-below", "0", "--stop-below", "0.5", "--json").out
    )
    assert told["approximate"] == "stop_below" and told["settings"][0]["saved"] == 0
    for arguments, message in (
        (("--stop-below", "x"), "--stop-below takes numbers"),
        (("--stop-below", "2"), "stop_below must be between 0 and 1"),
        (("--stop-below", "0.1", "--decode", "exit"), "No such option: --decode"),
    ):
        refused = cli("eval", "stops", bundle, "--text", text, *arguments)
        assert refused.code == 2 and message in refused.err

"""Text out of tokens: whole characters, stop strings that never show, reasons, probabilities and costs that add up."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
import pytest
from decoding import WildDrafter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.decoding import Drafter, PlainDrafter
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, stream
from skipstone.runtime.sampling import SamplingOptions

PROMPT = "def add("
NEW_TOKENS = 24
LONG = GenerationOptions(max_new_tokens=NEW_TOKENS)
WithStopIds = Callable[[Model, Collection[int]], Model]


class OracleDrafter(Drafter):
    """Knows the text that will come and guesses the next five tokens of it."""

    name = "oracle"

    def __init__(self, truth: SequenceOf[int]) -> None:
        self._truth = list(truth)

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        return Draft.chain(self._truth[len(history) :][: min(limit, 5)], source=self.name)


def opened(model: Model, prompt: str = PROMPT) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(prompt))
    return sequence


def generate(model: Model, *, drafter: Drafter | None = None, **options: object) -> Generation:
    chosen = GenerationOptions(**{"max_new_tokens": NEW_TOKENS} | options)  # type: ignore[arg-type]
    return Generation.join(list(stream(model, opened(model), chosen, drafter=drafter)))


@pytest.fixture(scope="session")
def endless(tiny: Model, with_stop_ids: WithStopIds) -> Model:
    """No token ends its texts."""
    return with_stop_ids(tiny, ())


@pytest.fixture(scope="session")
def whole(endless: Model) -> Generation:
    """The likeliest text of `NEW_TOKENS` tokens."""
    found = generate(endless, decode="plain")
    assert len(set(found.token_ids)) > 8 and len(found.text) > 12
    return found


@pytest.fixture(scope="session")
def oracle(endless: Model, whole: Generation) -> OracleDrafter:
    return OracleDrafter([*endless.tokenizer.encode(PROMPT), *whole.token_ids])


# Text


def test_the_pieces_make_the_text_of_the_tokens(endless: Model, whole: Generation) -> None:
    assert whole.text == endless.tokenizer.decode(whole.token_ids)
    assert len(whole.token_ids) == NEW_TOKENS


@given(seed=st.integers(0, 2**32), temperature=st.sampled_from([0.7, 3.0]))
@settings(max_examples=20, deadline=None)
def test_every_piece_is_valid_text_and_together_they_are_the_decoded_tokens(
    endless: Model, seed: int, temperature: float
) -> None:
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, sampling=SamplingOptions(temperature=temperature, seed=seed))
    pieces = list(stream(endless, opened(endless), options))
    for piece in pieces:
        piece.text.encode("utf-8")
    token_ids = [token_id for piece in pieces for token_id in piece.token_ids]
    assert "".join(piece.text for piece in pieces) == endless.tokenizer.decode(token_ids)


def test_a_character_of_several_tokens_comes_whole(endless: Model) -> None:
    token_ids = endless.tokenizer.encode("🦊€")
    assert len(token_ids) > 4
    builder = GenerationOptions(max_new_tokens=len(token_ids)).text_builder(endless, prompt=[5])
    shown = [builder.push([token_id])[0] for token_id in token_ids]
    assert [text for text in shown if text] == ["🦊", "€"]
    assert builder.finish_reason == "length"


def test_a_character_that_is_cut_off_at_the_end_shows_as_broken(endless: Model) -> None:
    token_ids = endless.tokenizer.encode("🦊")[:-1]
    builder = GenerationOptions(max_new_tokens=len(token_ids)).text_builder(endless, prompt=[5])
    assert builder.push(token_ids) == (endless.tokenizer.decode(token_ids), len(token_ids))


# Stop strings


def cut_at_first_stop(text: str, stops: SequenceOf[str]) -> str | None:
    """Return the text before the stop string that starts first, the slow obvious way; None without one."""
    for end in range(len(text)):
        if any(text[end:].startswith(stop) for stop in stops):
            return text[:end]
    return None


@st.composite
def parts(draw: st.DrawFn) -> list[tuple[float, int, str]]:
    """Where stop strings are cut out of a text: start as a share of it, length, and what follows there instead."""
    part = st.tuples(st.floats(0, 1), st.integers(1, 5), st.sampled_from(["", "", "#", "~~~"]))
    return draw(st.lists(part, min_size=1, max_size=4))


@given(parts=parts(), drafted=st.booleans())
@example(parts=[(1.0, 3, "~~~"), (1.0, 2, "")], drafted=False)
@settings(max_examples=40, deadline=None)
def test_a_stop_string_ends_the_text_before_it_and_never_leaks(
    endless: Model, whole: Generation, oracle: OracleDrafter, parts: list[tuple[float, int, str]], drafted: bool
) -> None:
    text = whole.text
    starts = [min(int(share * len(text)), len(text) - length) for share, length, _ in parts]
    stops = tuple(text[start : start + length] + rest for start, (_, length, rest) in zip(starts, parts, strict=True))
    found = generate(endless, stop=stops, drafter=oracle if drafted else None)
    wanted = cut_at_first_stop(text, stops)
    assert found.text == (text if wanted is None else wanted)
    assert found.finish_reason == ("length" if wanted is None else "stop")
    assert found.token_ids == whole.token_ids[: len(found.token_ids)]


def test_a_stop_string_in_a_draft_leaves_the_state_of_plain_decoding(
    endless: Model, whole: Generation, oracle: OracleDrafter
) -> None:
    stop = (whole.text[7:10],)
    options = GenerationOptions(max_new_tokens=NEW_TOKENS, stop=stop, logprobs=2)
    results = []
    for drafter in (PlainDrafter(), oracle):
        sequence = opened(endless)
        joined = Generation.join(list(stream(endless, sequence, options, drafter=drafter)))
        results.append((joined.text, joined.token_ids, joined.stats.new_tokens, sequence.token_ids))
        assert [entry.token_id for entry in joined.logprobs] == list(joined.token_ids)
        sequence.check()
    assert results[0] == results[1]
    assert results[0][2] < NEW_TOKENS


def test_a_stop_string_among_rejected_guesses_ends_nothing(endless: Model, whole: Generation) -> None:
    stop = "~~"
    assert stop not in whole.text
    stop_ids = endless.tokenizer.encode(stop)

    class Stopping(OracleDrafter):
        def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
            right = super().propose(history, limit=min(limit, 2)).token_ids
            return Draft.chain([*right, *stop_ids][:limit], source=self.name)

    found = generate(endless, stop=(stop,), drafter=Stopping([*endless.tokenizer.encode(PROMPT), *whole.token_ids]))
    assert (found.token_ids, found.text, found.finish_reason) == (whole.token_ids, whole.text, "length")
    assert found.stats.drafters["oracle"].accepted < found.stats.drafters["oracle"].drafted


# Why a text ends


def test_a_stop_token_ends_the_text_and_shows_only_as_a_token(
    endless: Model, whole: Generation, oracle: OracleDrafter, with_stop_ids: WithStopIds
) -> None:
    stop_id = whole.token_ids[9]
    at = whole.token_ids.index(stop_id)
    for drafter in (None, oracle):
        found = generate(with_stop_ids(endless, (306, stop_id)), drafter=drafter)
        assert (found.finish_reason, found.token_ids) == ("stop", whole.token_ids[: at + 1])
        assert found.text == endless.tokenizer.decode(whole.token_ids[:at])


@pytest.mark.parametrize("max_new_tokens", [1, 5])
def test_the_limit_ends_the_text(endless: Model, whole: Generation, oracle: OracleDrafter, max_new_tokens: int) -> None:
    for drafter in (None, oracle):
        found = generate(endless, max_new_tokens=max_new_tokens, drafter=drafter)
        assert (found.finish_reason, found.token_ids) == ("length", whole.token_ids[:max_new_tokens])


def test_a_stop_token_at_the_limit_is_a_stop(endless: Model, whole: Generation, with_stop_ids: WithStopIds) -> None:
    at = next(at for at in range(3, NEW_TOKENS) if whole.token_ids.index(whole.token_ids[at]) == at)
    assert generate(with_stop_ids(endless, whole.token_ids[at : at + 1]), max_new_tokens=at + 1).finish_reason == "stop"


def test_no_stop_token_comes_before_min_new_tokens(
    endless: Model, whole: Generation, with_stop_ids: WithStopIds
) -> None:
    stopping = with_stop_ids(endless, whole.token_ids[:3])
    found = generate(stopping, sampling=SamplingOptions(min_new_tokens=8))
    assert len(found.token_ids) >= 8
    assert not set(found.token_ids[:7]) & set(whole.token_ids[:3])


def test_only_the_last_piece_says_why_and_at_what_cost(endless: Model) -> None:
    *pieces, last = stream(endless, opened(endless), GenerationOptions(max_new_tokens=6))
    assert all(piece.finish_reason is None and piece.stats is None for piece in pieces)
    assert last.finish_reason == "length" and last.stats is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"decode": "wild"}, "decoding method 'wild' is not known; known are plain, auto, ngram"),
        ({"decode": "plain,ngram"}, "plain stands alone"),
        ({"verify": "wild"}, "verify 'wild' is not known; known are match"),
        ({"decode": "model", "verify": "rejection", "exact": True}, "exact gives the bits of plain decoding"),
        ({"decode": "switch", "dial": "0.9"}, "dial must be a number, got '0.9'"),
        ({"decode": "switch", "dial": True}, "dial must be a number, got True"),
        ({"decode": "plain", "dial": False}, "dial must be a number, got False"),
        ({"decode": "exit", "min_agreement": "0.9"}, "min_agreement must be a number, got '0.9'"),
        ({"stop_below": "0.2"}, "stop_below must be a number, got '0.2'"),
        ({"logprobs": -1}, "logprobs must be at least 0, got -1"),
        ({"max_new_tokens": 3, "sampling": SamplingOptions(min_new_tokens=4)}, "min_new_tokens 4 is more than"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(**options)  # type: ignore[arg-type]


def test_a_text_that_could_outgrow_the_context_is_refused_before_any_work(endless: Model) -> None:
    sequence = endless.new_sequence(context_length=20)
    sequence.append([5] * 10)
    with pytest.raises(CacheFull, match="cache holds 20 tokens, 21 needed"):
        next(stream(endless, sequence, GenerationOptions(max_new_tokens=11)))
    assert sequence.num_cached == 0


def test_an_empty_text_is_refused(endless: Model) -> None:
    with pytest.raises(ConfigError, match="the text is empty"):
        next(stream(endless, endless.new_sequence(), GenerationOptions()))


def test_an_exact_text_needs_an_exact_sequence(endless: Model) -> None:
    with pytest.raises(ConfigError, match="the options ask for exact, the sequence is not"):
        stream(endless, opened(endless), GenerationOptions(exact=True))


@pytest.mark.parametrize("decode", ["auto", "plain", "ngram", "suffix,recycle"])
def test_a_method_by_name_gives_the_plain_text(endless: Model, whole: Generation, decode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(endless, decode=decode).token_ids == whole.token_ids


def test_without_a_word_the_method_is_auto() -> None:
    assert (GenerationOptions().decode, GenerationOptions().verify, GenerationOptions().exact) == (
        "auto",
        "match",
        None,
    )


# Probabilities


def test_logprobs_are_those_of_the_model_before_any_sampler(endless: Model, oracle: OracleDrafter) -> None:
    sampling = SamplingOptions(temperature=2.0, top_k=50, repetition_penalty=1.3, seed=1)
    found = generate(endless, sampling=sampling, logprobs=307, drafter=oracle)
    text = endless.tokenizer.encode(PROMPT)
    for token_id, entry in zip(found.token_ids, found.logprobs, strict=True):
        sequence = endless.new_sequence()
        sequence.append(text)
        logits = sequence.extend(Draft.empty())[0].astype(np.float64)
        wanted = logits - np.log(np.exp(logits).sum())
        assert entry.token_id == token_id
        assert entry.logprob == pytest.approx(wanted[token_id], abs=1e-4)
        tops = dict(entry.top)
        assert [tops[other] for other in range(307)] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert sum(np.exp(list(tops.values()))) == pytest.approx(1.0, abs=1e-5)
        assert sorted(tops.values(), reverse=True) == list(tops.values())
        text.append(token_id)


def test_as_many_likely_tokens_are_reported_as_asked_for(endless: Model, whole: Generation) -> None:
    assert whole.logprobs == ()
    for num_top in (0, 3):
        found = generate(endless, logprobs=num_top)
        assert [len(entry.top) for entry in found.logprobs] == [num_top] * NEW_TOKENS
    assert [entry.top[0] for entry in found.logprobs] == [(entry.token_id, entry.logprob) for entry in found.logprobs]


# Costs


def test_stats_count_what_was_done(endless: Model, oracle: OracleDrafter, whole: Generation) -> None:
    num_prompt = len(endless.tokenizer.encode(PROMPT))
    # The oracle's calls give 1 token, 6 three times and 5.
    for drafter, num_calls in ((PlainDrafter(), NEW_TOKENS), (oracle, 5)):
        stats = generate(endless, drafter=drafter).stats
        assert (stats.prompt_tokens, stats.new_tokens, stats.model_calls) == (num_prompt, NEW_TOKENS, num_calls)
        assert stats.ttft_s > 0
        assert stats.prefill_tokens_per_s == pytest.approx(num_prompt / stats.ttft_s)
        assert stats.decode_tokens_per_s > 0
        assert 1e6 < stats.peak_memory_bytes < 1e12


def test_a_text_of_one_model_call_has_no_decoding_rate(endless: Model, oracle: OracleDrafter) -> None:
    for drafter in (None, oracle):
        stats = generate(endless, max_new_tokens=1, drafter=drafter).stats
        assert (stats.model_calls, stats.decode_tokens_per_s) == (1, 0.0)
        assert (stats.draft_s, stats.model_s, stats.accept_s) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_parts_of_the_time_make_up_the_time_for_decoding(endless: Model, whole: Generation, share: float) -> None:
    truth = [*endless.tokenizer.encode(PROMPT), *whole.token_ids]
    pieces = list(stream(endless, opened(endless), LONG, drafter=WildDrafter(truth, 1, branches=True, share=share)))
    stats = Generation.join(pieces).stats
    decode_s = (stats.new_tokens - len(pieces[0].token_ids)) / stats.decode_tokens_per_s
    assert min(stats.draft_s, stats.model_s, stats.accept_s, stats.other_s) > 0
    assert stats.draft_s + stats.model_s + stats.accept_s + stats.other_s == pytest.approx(decode_s)


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("stop_at", [None, 13])
def test_the_counts_of_a_drafter_are_those_of_the_pieces(
    endless: Model, whole: Generation, branches: bool, stop_at: int | None
) -> None:
    truth = [*endless.tokenizer.encode(PROMPT), *whole.token_ids]
    drafter = WildDrafter(truth, 2, branches=branches, share=0.8)
    options = replace(LONG, stop=() if stop_at is None else (whole.text[stop_at : stop_at + 2],))
    pieces = list(stream(endless, opened(endless), options, drafter=drafter))
    stats = Generation.join(pieces).stats
    assert set(stats.drafters) == {"wild"}
    counts = stats.drafters["wild"]
    assert counts.accepted == sum(piece.num_guessed for piece in pieces) > 0
    assert counts.rounds == sum(piece.drafter == "wild" for piece in pieces)
    assert counts.accepted <= counts.drafted
    assert all(piece.num_guessed <= len(piece.token_ids) for piece in pieces)
    assert all(piece.num_guessed == 0 for piece in pieces if piece.drafter == "plain")
    assert stats.new_tokens == sum(len(piece.token_ids) for piece in pieces)
    assert stats.model_calls == len(pieces)
    # Each call gives a token of the model's own, unless the text ends with a guess.
    ended_with_guess = pieces[-1].num_guessed == len(pieces[-1].token_ids)
    assert stats.new_tokens == counts.accepted + stats.model_calls - ended_with_guess


def test_a_drafter_without_a_guess_counts_no_round(endless: Model) -> None:
    stats = generate(endless, drafter=PlainDrafter()).stats
    assert stats.drafters == {}


def test_the_tokens_that_were_cached_do_not_count_as_prefilled(endless: Model) -> None:
    sequence = opened(endless)
    first = Generation.join(list(stream(endless, sequence, GenerationOptions(max_new_tokens=4))))
    second = Generation.join(list(stream(endless, sequence, GenerationOptions(max_new_tokens=4))))
    assert second.prompt_tokens == first.prompt_tokens + 4
    assert second.stats.prefill_tokens_per_s * second.stats.ttft_s == pytest.approx(1)


# Leaving early


@pytest.mark.parametrize("num_pieces", [0, 1, 2, 3])
def test_a_stream_that_is_closed_early_leaves_a_sequence_that_goes_on(
    endless: Model, whole: Generation, oracle: OracleDrafter, num_pieces: int
) -> None:
    for drafter in (PlainDrafter(), oracle):
        sequence = opened(endless)
        num_prompt = len(sequence.token_ids)
        pieces = stream(endless, sequence, GenerationOptions(max_new_tokens=NEW_TOKENS), drafter=drafter)
        shown: list[Piece] = [next(pieces) for _ in range(num_pieces)]
        pieces.close()  # type: ignore[attr-defined]
        sequence.check()
        made = tuple(sequence.token_ids[num_prompt:])
        assert made == tuple(token_id for piece in shown for token_id in piece.token_ids)
        rest = Generation.join(
            list(stream(endless, sequence, GenerationOptions(max_new_tokens=NEW_TOKENS - len(made))))
        )
        assert made + rest.token_ids == whole.token_ids


# Data


def test_a_generation_becomes_json_with_logprobs_only_where_asked_for(endless: Model, whole: Generation) -> None:
    data = json.loads(json.dumps(whole.to_json()))
    assert data["stats"]["drafters"] == {}
    assert (data["text"], data["finish_reason"], tuple(data["token_ids"])) == (whole.text, "length", whole.token_ids)
    assert data["stats"]["new_tokens"] == NEW_TOKENS
    assert "logprobs" not in data
    with_logprobs = json.loads(json.dumps(generate(endless, logprobs=1, max_new_tokens=2).to_json()))
    assert [set(entry) for entry in with_logprobs["logprobs"]] == [{"token_id", "logprob", "top"}] * 2

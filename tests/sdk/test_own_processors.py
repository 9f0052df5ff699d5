"""Processors of the user's: what they see, where they stand, what they must return, and that every method obeys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decoding import leaning
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation
from skipstone.runtime.methods import approximate_methods

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]
PROMPT = "def add(first, second):"
OPTIONS: dict[str, Any] = {"processors": [leaning], "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model(tiny_stages: Model) -> LanguageModel:
    return LanguageModel(tiny_stages)


def obeys(model: LanguageModel, text: Generation, prompt: str = PROMPT) -> bool:
    """Whether no token of a text was banned where it stands."""
    token_ids, start = [*model.encode(prompt), *text.token_ids], len(model.encode(prompt))
    places = range(start, len(token_ids))
    return all(
        np.isfinite(leaning(np.array(token_ids[:at]), np.zeros(307, np.float32))[token_ids[at]]) for at in places
    )


def test_a_function_sees_prompt_and_answer_so_far_and_the_logits_of_the_next_token(model: LanguageModel) -> None:
    calls: list[tuple[list[int], Any]] = []

    def noting(token_ids: Tokens, logits: Logits) -> Logits:
        assert (token_ids.dtype, logits.dtype, logits.shape) == (np.int64, np.float32, (307,))
        assert not token_ids.flags.writeable
        calls.append((token_ids.tolist(), int(logits.argmax())))
        return logits

    text = model.generate(PROMPT, processors=[noting], decode="plain", max_new_tokens=6)
    prompt = model.encode(PROMPT)
    assert [seen for seen, _ in calls] == [[*prompt, *text.token_ids[:at]] for at in range(len(text.token_ids))]
    assert tuple(best for _, best in calls) == text.token_ids


def test_it_stands_behind_bans_and_before_the_temperature(model: LanguageModel) -> None:
    rows: list[Logits] = []

    def keeping(token_ids: Tokens, logits: Logits) -> Logits:
        rows.append(logits.copy())
        return logits

    options = {"banned_ids": [5], "logit_bias": {6: 50.0}, "max_new_tokens": 1, "decode": "plain"}
    model.generate(PROMPT, processors=[keeping], temperature=0.5, top_k=1, seed=1, **options)
    model.generate(PROMPT, processors=[keeping], **options)
    assert rows[0][5] == -np.inf and rows[0].argmax() == 6
    assert np.count_nonzero(np.isfinite(rows[0])) == 306  # top_k has not been
    np.testing.assert_array_equal(rows[0], rows[1])


def test_several_run_one_after_the_other_and_may_return_what_is_like_an_array(model: LanguageModel) -> None:
    def only_seven(token_ids: Tokens, logits: Logits) -> list[float]:
        return [0.0 if token_id == 7 else -np.inf for token_id in range(len(logits))]

    def add(token_ids: Tokens, logits: Logits) -> NDArray[np.float64]:
        assert logits.dtype == np.float32 and logits.argmax() == 7
        return logits.astype(np.float64) + 1

    assert set(model.generate(PROMPT, processors=[only_seven, add], max_new_tokens=3).token_ids) == {7}


@pytest.mark.parametrize("decode", ["auto", "ngram", "suffix,recycle", "jacobi", "lookahead", "self", "free"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}])
def test_every_lossless_method_writes_the_plain_text(
    model: LanguageModel, decode: str, sampling: dict[str, Any]
) -> None:
    prompt = PROMPT * 3
    plain = model.generate(prompt, decode="plain", **OPTIONS, **sampling)
    assert model.generate(prompt, decode=decode, **OPTIONS, **sampling).token_ids == plain.token_ids
    assert obeys(model, plain, prompt)
    assert plain.token_ids != model.generate(prompt, decode="plain", max_new_tokens=12, **sampling).token_ids


@pytest.mark.parametrize("verify", ["rejection", "k-seq"])
def test_rules_of_chance_ask_it_too(model: LanguageModel, verify: str) -> None:
    text = model.generate(PROMPT * 3, decode="self", verify=verify, temperature=1.0, seed=3, **OPTIONS)
    assert obeys(model, text, PROMPT * 3)


@pytest.mark.parametrize("decode", ["adaptive", "skipdecode", "momentum", "adadec", "cautious"])
def test_approximate_methods_choose_nothing_that_it_bans(model: LanguageModel, decode: str) -> None:
    method = approximate_methods()[decode]
    sampling = {"temperature": 0.8, "seed": 1} if method.chance == "needed" else {}
    assert obeys(model, model.generate(PROMPT, decode=decode, dial=method.dial.settings[-1], **OPTIONS, **sampling))


def test_batches_and_samples_ask_it_too(model: LanguageModel) -> None:
    prompts = [PROMPT, PROMPT * 2]
    alone = [model.generate(prompt, decode="plain", **OPTIONS).token_ids for prompt in prompts]
    assert [text.token_ids for text in model.generate(prompts, exact=False, **OPTIONS)] == alone
    samples = [*model.samples(PROMPT, 3, temperature=1.0, seed=1, **OPTIONS)]
    side_by_side = [*model.samples(PROMPT, 2, first=2, temperature=1.0, seed=1, **OPTIONS)]
    assert all(obeys(model, text) for text in (*samples, *side_by_side))


def test_an_answer_asks_it_about_the_whole_text_of_the_template(model: LanguageModel) -> None:
    lengths: list[int] = []

    def noting(token_ids: Tokens, logits: Logits) -> Logits:
        lengths.append(len(token_ids))
        return logits

    answer = model.chat([{"role": "user", "content": "Hello"}], processors=[noting], max_new_tokens=3, decode="plain")
    assert lengths[0] == answer.prompt_tokens


@pytest.mark.parametrize("method", ["auto", "branch", "beam", "diverse", "contrast"])
def test_drafts_of_suggestions_ask_it_too(model: LanguageModel, method: str) -> None:
    drafts = model.suggest(PROMPT, method=method, processors=[leaning], max_new_tokens=4, complete_words=False)
    for draft in drafts:
        token_ids, start = [*model.encode(PROMPT), *draft.token_ids], len(model.encode(PROMPT))
        for at in range(start, len(token_ids)):
            assert np.isfinite(leaning(np.array(token_ids[:at]), np.zeros(307, np.float32))[token_ids[at]])


def test_superposed_drafts_refuse_it_as_they_have_one_law(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="superposed has one law for all drafts"):
        model.suggest(PROMPT, method="superposed", processors=[leaning], complete_words=False)


def test_what_it_raises_comes_as_it_is(model: LanguageModel) -> None:
    def failing(token_ids: Tokens, logits: Logits) -> Logits:
        raise LookupError("no rule for this")

    with pytest.raises(LookupError, match="no rule for this") as raised:
        model.generate(PROMPT, processors=[failing], max_new_tokens=2)
    assert "failing" in [entry.name for entry in raised.traceback]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"processors\[0\] returned None; return the logits"),
        (np.zeros((1, 307)), r"processors\[0\] returned an array of shape \(1, 307\), where logits of shape \(307,\)"),
        (5.0, r"returned an array of shape \(\)"),
        ("x", r"processors\[0\] returned a str, where 307 logits were wanted"),
        (np.full(307, np.nan), r"processors\[0\] returned no number \(nan\) among the logits"),
        (np.full(307, np.inf), r"processors\[0\] returned inf among the logits"),
        (np.full(307, -np.inf), r"processors\[0\] leaves no token at this place"),
    ],
)
def test_what_is_no_row_of_logits_is_refused_in_one_line(model: LanguageModel, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        model.generate(PROMPT, processors=[lambda token_ids, logits: given], max_new_tokens=2)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [leaning, [5], "x", {"a": leaning}])
def test_only_a_list_of_functions_is_taken(model: LanguageModel, given: Any) -> None:
    with pytest.raises(ConfigError, match="processors"):
        model.generate(PROMPT, processors=given)

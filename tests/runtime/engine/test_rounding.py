"""How rows are fed so that each has the same bits: rules that are measured, and texts that follow them by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Feed, Model, Workspace
from skipstone.runtime.engine.rounding import (
    ANY_ROWS,
    MAX_EXACT_PRICE,
    NEVER,
    Rounding,
    RowRule,
    RowRules,
    measure_rounding,
)

VOCAB = 50
TEXT = np.random.default_rng(1).integers(3, 300, size=170).tolist()


# Finding the rules


class Kernels:
    """Stands for a model's calls: logits are those of the token and the place, off by a bit where kernels are."""

    def __init__(self, layers: Callable[[int], bool], head: Callable[[int], bool], clock: list[float]) -> None:
        """`layers` and `head` say of a number of rows whether they are off."""
        self._layers, self._head, self._clock = layers, head, clock
        dimensions, layers = SimpleNamespace(vocab_size=VOCAB, num_heads=3), [SimpleNamespace(head_size=64)] * 2
        manifest = SimpleNamespace(dimensions=dimensions, cache=layers, total_bytes=1 << 20)
        self.sessions = SimpleNamespace(manifest=manifest, rounds_single_rows=True)
        self.cache = SimpleNamespace(capacity=21)

    def call(self, feed: Feed) -> Kernels:
        return self

    def run(self, feed: Feed) -> NDArray[np.float32]:
        num_rows, num_asked = feed.token_ids.shape[1], len(feed.rows)
        self._clock[0] += 1 + 0.02 * (num_rows - 1)
        places = np.asarray(feed.rows) + feed.lengths[0]
        logits = np.sin(places[:, None] + feed.token_ids[0, list(feed.rows)] * np.arange(VOCAB)).astype(np.float32)
        return logits + np.float32(1e-6) * (self._layers(num_rows) + 2 * self._head(num_asked))


def measured(layers: Callable[[int], bool], head: Callable[[int], bool] = lambda count: False) -> Rounding:
    clock = [0.0]
    return measure_rounding(cast("Workspace", Kernels(layers, head, clock)), clock=lambda: clock[0])


def test_where_rows_agree_only_attention_has_a_price() -> None:
    found = measured(lambda count: False)
    assert (found.rules, found.price) == (ANY_ROWS, 0.0)
    assert found.price_at(1000) == pytest.approx(0.55 * 1000 * 2 * 3 * 64 * 4 / (1 << 20))


def test_texts_follow_rules_until_the_mean_price_is_what_it_may_be() -> None:
    found = Rounding(rules=ANY_ROWS, price=0.0, attention_price=0.0001)
    assert found.exact_until == pytest.approx(2 * MAX_EXACT_PRICE / 0.0001, abs=1)
    assert Rounding(rules=ANY_ROWS, price=0.0).exact_until == NEVER


@pytest.mark.parametrize("price", [0.0, MAX_EXACT_PRICE / 2, 1.0])
def test_where_rows_are_added_no_text_hangs_on_a_price_that_was_timed(price: float) -> None:
    assert Rounding(rules=RowRules(RowRule(2)), price=price).exact_until == 0


def test_a_row_alone_that_is_off_gets_a_second_one() -> None:
    found = measured(lambda count: count == 1)
    assert found.rules == RowRules(RowRule(2), RowRule())
    assert found.price == pytest.approx(0.02)


def test_an_odd_row_that_is_off_gets_another_in_layers_and_head() -> None:
    assert measured(lambda count: count % 2 == 1).rules == RowRules(RowRule(2, 2), RowRule())
    assert measured(lambda count: False, lambda count: count % 2 == 1).rules == RowRules(RowRule(), RowRule(2, 2))


def test_rows_that_never_agree_have_no_rule() -> None:
    found = measured(lambda count: count < 4)
    assert found == Rounding(rules=None, price=0.0) and found.exact_until == 0


@pytest.mark.parametrize(
    ("rule", "fed"), [(RowRule(), [0, 1, 2, 3]), (RowRule(2), [0, 2, 2, 3]), (RowRule(2, 2), [0, 2, 2, 4])]
)
def test_a_rule_adds_no_more_than_it_must(rule: RowRule, fed: list[int]) -> None:
    assert [rule.fed(count) for count in (0, 1, 2, 3)] == fed


# Following them


def rows_of(model: Model, cuts: list[int], *, exact: bool | None = None) -> NDArray[np.float32]:
    """Return the logits of all tokens of TEXT but the last, fed in calls that end at `cuts`."""
    sequence, logits = model.new_sequence(exact=exact), []
    for start, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True):
        sequence.append(TEXT[start : start + 1])
        logits.append(sequence.extend(Draft.chain(TEXT[start + 1 : end], source="test")).copy())
        sequence.commit([*TEXT[start + 1 : end], 5])
        sequence.rollback(end)
    return np.concatenate(logits)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp32"])
@pytest.mark.parametrize(
    "family", ["llama, tied", "mistral, window of 5", "gemma3n_text", "gpt2, quick gelu", "qwen3_moe"]
)
def test_however_a_text_is_fed_its_logits_are_the_same_bits(
    family: str, precision: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    model = Model.open(make_bundle(checkpoint, precision=precision))
    if model.rounding.rules is None:
        assert precision == "fp32" and family == "qwen3_moe"  # experts in float32 take rows as they come
        return
    whole = rows_of(model, [], exact=True)
    for cuts in ([1], [*range(1, 30)], [2, 5, 9, 16], [41], [169], [*range(150, 170)]):
        assert np.array_equal(rows_of(model, cuts, exact=True), whole), cuts


def test_small_blocks_cost_nothing_here_or_a_row_is_added(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model = Model.open(make_bundle(make_checkpoint("llama"), precision="int8"))
    assert (model.rounding.rules, model.rounding.price) == (ANY_ROWS, 0.0)


def with_price(bundle: Path, attention_price: float) -> Model:
    """Return a model whose second rows of attention take so much for each token of the text, whatever is measured."""
    model = Model.open(bundle)
    model.shared.get("rounding", lambda: Rounding(rules=ANY_ROWS, price=0.0, attention_price=attention_price))
    return model


@pytest.mark.parametrize(("exact", "wanted"), [(None, 60), (True, NEVER), (False, 0)])
def test_a_row_is_alone_behind_the_length_where_a_second_is_dear(
    exact: bool | None,
    wanted: int,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default; never in a text that asks for exact, always in one that asks for the opposite."""
    model = with_price(make_bundle(make_checkpoint("llama"), precision="int8"), 2 * MAX_EXACT_PRICE / 60)
    fed, call = list[tuple[int, int, bool]](), Workspace.call

    def seen(self: Workspace, feed: Feed, *args: Any) -> Any:
        fed.append((int(feed.lengths[0]), feed.token_ids.shape[1], feed.alone))
        return call(self, feed, *args)

    monkeypatch.setattr(Workspace, "call", seen)
    rows_of(model, [2, 5, *range(6, len(TEXT))], exact=exact)
    assert len(fed) > 150
    assert all(alone == (count == 1 and length >= wanted) for length, count, alone in fed)


def test_an_exact_text_is_exact_to_its_end(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model = with_price(make_bundle(make_checkpoint("llama"), precision="int8"), 2 * MAX_EXACT_PRICE / 60)
    assert np.array_equal(rows_of(model, [*range(1, len(TEXT))], exact=True), rows_of(model, [], exact=True))


def test_a_text_says_up_to_where_it_drafts(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(make_checkpoint("llama"), precision="int8")
    model = LanguageModel(with_price(bundle, 2 * MAX_EXACT_PRICE / 20))
    short, long = (model.generate("def add", max_new_tokens=count).stats.same_text for count in (4, 40))
    assert short is not None and short.startswith("plain decoding's, bit by bit, for")
    assert long is not None and long.startswith("plain decoding's, bit by bit; drafts end behind 20 tokens (--no-exact")
    free = model.generate("def add", max_new_tokens=40, exact=False).stats.same_text
    assert free == "plain decoding's up to near ties"


def test_without_a_word_texts_are_exact_and_say_so(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model = LanguageModel(with_price(make_bundle(make_checkpoint("llama"), precision="int8"), 0.0))
    options: dict[str, Any] = {"max_new_tokens": 48, "logprobs": 2, "logit_bias": {2: -100.0}}
    plain = model.generate("def add", decode="plain", **options)
    assert plain.stats.same_text == "plain decoding's, bit by bit"
    for decode in ("auto", "ngram", "recycle", "jacobi", "suffix,recycle"):
        drafted = model.generate("def add", decode=decode, **options)
        assert (drafted.token_ids, drafted.logprobs) == (plain.token_ids, plain.logprobs), decode
        assert drafted.stats.same_text == plain.stats.same_text


def test_drafts_that_branch_say_that_they_may_part(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model = LanguageModel(Model.open(make_bundle(make_checkpoint("llama"), precision="int8")))
    found = model.generate("def add", decode="lookahead", max_new_tokens=4, exact=False)
    assert found.stats.same_text == "plain decoding's up to near ties, as drafts branch"
    with pytest.raises(ConfigError, match=r"--no-exact .* or use jacobi"):
        model.generate("def add", decode="lookahead", max_new_tokens=4)


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        ("fp32", "plain decoding's, up to the last bits of float32"),
        ("int4", "plain decoding's up to near ties, as texts of a batch are decoded together"),
    ],
)
def test_texts_of_a_batch_say_that_they_may_part(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, precision: str, wanted: str
) -> None:
    model = LanguageModel(Model.open(make_bundle(make_checkpoint("llama"), precision=precision)))
    texts = model.generate(["def add", "class"], max_new_tokens=2, exact=False)
    assert [text.stats.same_text for text in texts] == [wanted] * 2


def test_each_of_several_prompts_gets_the_text_it_gets_alone(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    model = LanguageModel(Model.open(make_bundle(make_checkpoint("llama"), precision="int8")))
    options: dict[str, Any] = {"max_new_tokens": 24, "logprobs": 1, "temperature": 0.8, "seed": 3}
    prompts = ["def add", "class Sequence:\n    def", "import"]
    for found, prompt in zip(model.generate(prompts, **options), prompts, strict=True):
        alone = model.generate(prompt, decode="plain", **options)
        assert (found.token_ids, found.logprobs) == (alone.token_ids, alone.logprobs)


def test_a_rule_that_gives_another_text_says_so(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    model = LanguageModel(Model.open(make_bundle(make_checkpoint("llama"), precision="int8")))
    found = model.generate("def add", decode="plain", verify="rejection", max_new_tokens=4, temperature=0.8)
    assert found.stats.same_text == "another of the same law, as rejection verifies"

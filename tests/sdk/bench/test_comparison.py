"""Decoding methods compared: who runs when, what each may remember, and the arithmetic of the figures."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from comparisons import COMPARISON, RUN, runs_of
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st

from skipstone.bench import Category, Prompt, Suite, compare, method_names, unread
from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.engine import Model


def suite_of(*texts: str) -> Suite:
    """Return one category, whose prompts are called by their numbers."""
    prompts = tuple(Prompt(name=str(number), text=text) for number, text in enumerate(texts))
    return Suite(name="made up", categories=(Category(name="all", about="what the test gives", prompts=prompts),))


SUITE = suite_of("def add(first, second):", "class Sequence:")


# The arithmetic


def test_a_ratio_is_taken_within_a_round_then_its_median_then_the_geometric_mean_over_prompts() -> None:
    speeds = {
        **{(1, "easy", "one", "plain"): 100.0, (1, "easy", "one", "ngram"): 200.0},
        **{(2, "easy", "one", "plain"): 10.0, (2, "easy", "one", "ngram"): 40.0},  # a slow moment of the machine
        **{(3, "easy", "one", "plain"): 100.0, (3, "easy", "one", "ngram"): 900.0},
        **{(number, "easy", "two", "plain"): 50.0 for number in (1, 2, 3)},
        **{(number, "easy", "two", "ngram"): 50.0 for number in (1, 2, 3)},
    }
    cell = replace(COMPARISON, runs=runs_of(speeds)).cell("easy", "ngram")
    assert cell.ratio == pytest.approx((4.0 * 1.0) ** 0.5)
    assert cell.tokens_per_s == pytest.approx((200.0 * 50.0) ** 0.5)


@given(
    ratios=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4),
    pace=st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3),
)
def test_a_machine_that_is_slower_in_some_rounds_changes_no_ratio(ratios: list[float], pace: list[float]) -> None:
    def ratio(pace: list[float]) -> float:
        speeds = {
            (number, "easy", str(prompt), method): 100.0 * factor * (gain if method == "ngram" else 1.0)
            for number, factor in enumerate(pace, start=1)
            for prompt, gain in enumerate(ratios)
            for method in ("plain", "ngram")
        }
        return replace(COMPARISON, runs=runs_of(speeds)).cell("easy", "ngram").ratio

    assert ratio(pace) == pytest.approx(ratio([1.0, 1.0, 1.0]))


def test_the_usual_mean_leaves_adversarial_categories_out() -> None:
    speeds = {
        **{("easy", "plain"): 100.0, ("easy", "ngram"): 400.0},
        **{("hard", "plain"): 100.0, ("hard", "ngram"): 25.0},
    }
    runs = runs_of({(1, category, "one", method): speed for (category, method), speed in speeds.items()})
    comparison = replace(COMPARISON, runs=runs)
    assert comparison.mean_ratio("ngram") == pytest.approx(4.0)
    assert comparison.mean_ratio("ngram", adversarial=True) == pytest.approx(1.0)
    assert comparison.mean_ratio("plain") == 1.0


def test_guesses_and_texts_and_memory_are_counted_over_all_runs_of_a_cell() -> None:
    ngram = replace(RUN, method="ngram", model_calls=4, drafted=10, accepted=5, peak_memory_bytes=100)
    other = replace(ngram, prompt="two", model_calls=2, drafted=6, accepted=3, same_text=False, peak_memory_bytes=300)
    comparison = replace(COMPARISON, runs=(RUN, replace(RUN, prompt="two"), ngram, other))
    cell = comparison.cell("easy", "ngram")
    assert (cell.acceptance, cell.same_text, cell.peak_memory_bytes) == (0.5, 0.5, 300)
    assert cell.tokens_per_call == pytest.approx((8 + 8) / (4 + 2))
    plain = comparison.cell("easy", "plain")
    assert (plain.acceptance, plain.same_text, plain.peak_memory_bytes) == (None, 1.0, None)


# Which methods


def test_plain_is_compared_in_any_case_and_comes_first() -> None:
    assert method_names(["auto", " ngram+suffix"]) == ("plain", "auto", "ngram+suffix")
    assert method_names(["auto", "plain"]) == ("plain", "auto")
    assert method_names([]) == ("plain",)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["ngram", "ngram"], "each method is compared once, got ngram,ngram"),
        (["guessing"], "decoding method 'guessing' is not known"),
        (["ngram+auto"], "stands alone"),
        (["exit"], "decode exit is approximate; say how close it must stay: min_agreement"),
        ([""], "decoding method '' is not known"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(methods: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_names(methods)


def test_a_method_that_the_bundle_cannot_run_is_refused(tiny: Model) -> None:
    with pytest.raises(ConfigError, match="'model' needs a small model"):
        compare(tiny, SUITE, ["ngram", "model"], new_tokens=4)


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused_before_any_run(tiny: Model) -> None:
    counts: list[int] = []
    with pytest.raises(
        CacheFull, match="prompt 1 of suite made up and 8 new tokens need 258, the model's context has 256"
    ):
        compare(tiny, suite_of("def", "x" * 250), ["ngram"], new_tokens=8, on_progress=counts.append)
    assert counts == []


@pytest.mark.parametrize("wrong", [{"new_tokens": 1}, {"rounds": 0}])
def test_too_few_tokens_or_rounds_are_refused(tiny: Model, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 2 new tokens and 1 round"):
        compare(tiny, SUITE, ["ngram"], **wrong)


# Who runs when


def test_methods_take_turns_at_each_prompt_and_another_begins_each_round(tiny: Model) -> None:
    counts: list[int] = []
    methods = ["ngram", "suffix"]
    result = compare(tiny, SUITE, methods, new_tokens=3, rounds=4, on_progress=counts.append)
    orders = [("plain", "ngram", "suffix"), ("ngram", "suffix", "plain"), ("suffix", "plain", "ngram")]
    orders.append(orders[0])
    assert [(run.round, run.prompt, run.method) for run in result.runs] == [
        (number, prompt, method) for number, order in enumerate(orders, start=1) for prompt in "01" for method in order
    ]
    assert counts == [3, 6, 9, 12, 15, 18, 21, 24]


def test_all_methods_make_the_same_number_of_tokens_whatever_ends_a_text(
    tiny: Model, with_stop_ids: Callable[[Model, Collection[int]], Model]
) -> None:
    stopping = with_stop_ids(tiny, range(307))
    result = compare(stopping, SUITE, ["ngram"], new_tokens=12, rounds=1)
    for run in result.runs:
        assert run.model_calls + run.accepted == 12
        assert run.method != "plain" or run.drafted == 0
        assert run.same_text
        assert run.tokens_per_s > 0
    assert stopping.manifest.stop_ids == tuple(range(307))


def test_the_record_says_what_was_run_and_where(tiny: Model) -> None:
    result = compare(tiny, SUITE, ["ngram"], new_tokens=3, rounds=2)
    assert (result.bundle, result.precision, result.device) == (str(tiny.bundle.path), "fp32", "cpu")
    assert (result.suite, result.new_tokens, result.rounds) == ("made up", 3, 2)
    assert (result.methods, result.categories, result.adversarial) == (("plain", "ngram"), ("all",), ())
    assert {run.prompt_tokens for run in result.runs} == {len(tiny.tokenizer.encode(text)) for text in texts(SUITE)}
    for run in result.runs:
        assert run.peak_memory_bytes is None or 0 < run.peak_memory_bytes <= result.process_peak_memory_bytes
    record = json.loads(json.dumps(result.to_json()))
    assert record["runs"] == [asdict(run) for run in result.runs]
    assert [(cell["category"], cell["method"]) for cell in record["cells"]] == [("all", "plain"), ("all", "ngram")]
    assert record["mean_ratio"]["plain"] == 1.0


def texts(suite: Suite) -> list[str]:
    return [prompt.text for category in suite.categories for prompt in category.prompts]


# What a method may remember


def test_a_method_remembers_the_texts_of_its_round_but_none_of_another_round(tiny: Model) -> None:
    """A prompt that comes twice in a round is answered from memory the second time: so memory would show."""
    result = compare(tiny, suite_of("def add(", "def add("), ["suffix"], new_tokens=24, rounds=3)
    suffix = {(run.round, run.prompt): run for run in result.runs if run.method == "suffix"}
    assert suffix[1, "1"].model_calls < suffix[1, "0"].model_calls
    for number in (2, 3):
        for prompt in "01":
            assert suffix[number, prompt].model_calls == suffix[1, prompt].model_calls
            assert suffix[number, prompt].accepted == suffix[1, prompt].accepted


def test_what_the_model_itself_remembers_is_neither_used_nor_added_to(tiny: Model) -> None:
    model = copy.copy(tiny)
    model.shared = type(tiny.shared)()
    memory = object()
    model.shared.get("suffix memory", lambda: memory)
    compare(model, SUITE, ["suffix"], new_tokens=4, rounds=1)
    assert model.shared.get("suffix memory", object) is memory
    assert model.shared.get("suffix acceptance", lambda: "made here") == "made here"


def test_an_unread_model_keeps_what_was_measured_and_opened(
    tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(tiny_checkpoint, drafter=make_checkpoint(num_hidden_layers=1))
    model = Model.open(bundle)
    first, second = unread(model), unread(model)
    curve: Any = first.shared.get("cost curve", object)
    assert second.shared.get("cost curve", object) is curve is model.shared.get("cost curve", object)
    assert first.draft_model is not None and second.draft_model is not None and model.draft_model is not None
    assert first.draft_model.sessions is second.draft_model.sessions is model.draft_model.sessions
    assert first.draft_model is first.draft_model
    stores = {
        id(one.shared) for one in (first, second, first.draft_model, second.draft_model, model, model.draft_model)
    }
    assert len(stores) == 6


def test_a_bundle_without_a_small_model_has_none_when_unread(tiny: Model) -> None:
    assert unread(tiny).draft_model is None

"""Names of decoding methods: which are known, which go together, and what they open."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import MakeBundle, MakeCheckpoint

from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.costs import CostCurve
from skipstone.runtime.decoding import Drafter, PlainDrafter
from skipstone.runtime.engine import Model, SharedStores
from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.methods import InOrder, MethodChoice, registered_drafters, weighed_methods
from skipstone.runtime.methods.auto import Planner
from skipstone.runtime.methods.from_text import NgramDrafter, SuffixDrafter
from skipstone.runtime.sampling import Sampler, SamplingOptions

CURVE = CostCurve(rows=(1, 16), contexts=(0,), seconds=((0.001, 0.004),))


@pytest.fixture
def model(tiny: Model) -> Model:
    """The tiny model with a made-up cost curve, as a new process opens it."""
    fresh = copy.copy(tiny)
    fresh.shared = SharedStores()
    fresh.shared.get("cost curve", lambda: CURVE)
    return fresh


def opened(model: Model, names: str, *, rule: str = "match", exact: bool = False, text_only: bool = False) -> Drafter:
    sequence = model.new_sequence(exact=exact)
    sequence.append([1, 50])
    return MethodChoice.parse(names, rule=rule).open(model, sequence, Sampler(greedy=True), text_only=text_only)


# Names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("plain", ("plain",)),
        ("auto", ("auto",)),
        ("ngram", ("ngram",)),
        ("suffix,recycle", ("suffix", "recycle")),
        (" ngram , model ", ("ngram", "model")),
    ],
)
def test_names_are_read_in_their_order(text: str, names: tuple[str, ...]) -> None:
    assert MethodChoice.parse(text) == MethodChoice(names)


def test_the_default_is_auto_with_the_rule_that_keeps_the_text() -> None:
    assert MethodChoice() == MethodChoice.parse("auto", rule="match")


def test_every_registered_drafter_is_a_method() -> None:
    for name in registered_drafters():
        assert MethodChoice.parse(name).names == (name,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", r"decoding method 'magic' is not known; known are plain, auto, ngram, suffix, .*model"),
        ("", "decoding method '' is not known"),
        ("ngram,", "decoding method '' is not known"),
        ("ngram,,suffix", "decoding method '' is not known"),
        ("Suffix", "decoding method 'Suffix' is not known"),
        ("ngram,suffix,ngram", "must be given once each, got ngram,suffix,ngram"),
        ("plain,plain", "must be given once each"),
        ("plain,ngram", "plain stands alone; join drafters only"),
        ("suffix,auto", "auto stands alone"),
        ("exit,suffix", "exit stands alone; join drafters only"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MethodChoice.parse(text)
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(decode=text)


def test_exit_is_no_drafter_and_goes_with_match_only(model: Model) -> None:
    assert MethodChoice.parse("exit").is_approximate and not MethodChoice.parse("auto").is_approximate
    assert "exit" not in registered_drafters()
    with pytest.raises(ConfigError, match="exit has no drafts that rejection could verify"):
        MethodChoice.parse("exit", rule="rejection")
    with pytest.raises(ConfigError, match="exit drafts nothing and may change the text; it is for generate and eval"):
        opened(model, "exit")


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be given once each, got none"):
        MethodChoice(())


# Rules


@pytest.mark.parametrize("rule", ["match", "rejection", "k-seq"])
@pytest.mark.parametrize("names", ["plain", "model", "ngram,model"])
def test_every_rule_goes_with_drafters_by_name(names: str, rule: str) -> None:
    assert MethodChoice.parse(names, rule=rule).rule == rule


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_auto_goes_with_match_only(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"would bend the law that {rule} keeps; name the drafter, such as model"):
        MethodChoice.parse("auto", rule=rule)


@pytest.mark.parametrize("rule", ["", "Match", "typical"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"verify '{rule}' is not known; known are match, rejection, k-seq"):
        MethodChoice.parse("ngram", rule=rule)


# What opens


def test_a_single_name_opens_its_drafter_and_several_a_cascade(model: Model) -> None:
    assert isinstance(opened(model, "plain"), PlainDrafter)
    assert isinstance(opened(model, "ngram"), NgramDrafter)
    both = opened(model, "suffix,ngram")
    assert isinstance(both, InOrder) and both.name == "suffix,ngram"


def test_a_drafter_that_cannot_run_here_is_refused_with_its_reason(model: Model) -> None:
    with pytest.raises(ConfigError, match="'model' needs a small model, and the bundle has none"):
        opened(model, "model")
    with pytest.raises(ConfigError, match="'model' needs a small model, and the bundle has none"):
        opened(model, "suffix,model")


@pytest.mark.parametrize("exact", [False, True])
def test_auto_opens_a_planner_with_the_cost_curve_of_the_model(model: Model, exact: bool) -> None:
    planner = opened(model, "auto", exact=exact)
    assert isinstance(planner, Planner)
    assert planner.name == "auto"


def test_auto_weighs_the_small_model_where_there_is_one(
    model: Model, tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    assert tuple(method.name for method in weighed_methods(model)) == ("ngram", "suffix", "recycle")
    small = make_checkpoint(num_hidden_layers=1)
    pair = Model.open(make_bundle(tiny_checkpoint, drafter=small))
    assert tuple(method.name for method in weighed_methods(pair)) == ("ngram", "suffix", "recycle", "model")


def test_what_auto_learns_outlives_the_text(model: Model) -> None:
    first, second = opened(model, "auto"), opened(model, "auto")
    assert first is not second
    assert first._knowledge is second._knowledge  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exact", [False, True])
def test_the_text_of_auto_is_that_of_plain_decoding(model: Model, exact: bool) -> None:
    for sampling in (SamplingOptions(), SamplingOptions(temperature=0.7, seed=3, repetition_penalty=1.2)):
        made = [
            LanguageModel(model).generate("def add(", decode=decode, exact=exact, max_new_tokens=40, **asdict(sampling))
            for decode in ("plain", "auto", "auto")
        ]
        assert len({generation.token_ids for generation in made}) == 1


def test_auto_does_not_measure_again_for_a_second_text(model: Model, fed: list[tuple[int, ...]]) -> None:
    opened(model, "auto")
    opened(model, "auto")
    assert fed == []


# From the text alone


def test_methods_that_read_text_only_open_without_logits(model: Model) -> None:
    assert isinstance(opened(model, "plain", text_only=True), PlainDrafter)
    assert isinstance(opened(model, "suffix", text_only=True), SuffixDrafter)
    assert isinstance(opened(model, "suffix,ngram", text_only=True), InOrder)
    assert isinstance(opened(model, "auto", text_only=True), Planner)


@pytest.mark.parametrize("names", [name for name in registered_drafters() if name not in ("ngram", "suffix")])
def test_methods_that_look_at_logits_are_refused_by_name(model: Model, names: str) -> None:
    with pytest.raises(ConfigError, match=f"{names} needs more than text; known here are plain, auto, ngram, suffix"):
        opened(model, names, text_only=True)
    with pytest.raises(ConfigError, match=f"suffix,{names} needs more than text"):
        opened(model, f"suffix,{names}", text_only=True)

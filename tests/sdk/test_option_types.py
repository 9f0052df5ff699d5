"""Whatever Python gives as an option: one line that says what is wrong, before any work, or a text."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skipstone
from skipstone import bench, evaluate
from skipstone.errors import ConfigError, SkipstoneError
from skipstone.exporters import ExportOptions
from skipstone.language_model import LanguageModel
from skipstone.option_types import check_fields, checked, checks_arguments
from skipstone.options import generation_options
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.methods import approximate_methods
from skipstone.runtime.sampling import SamplingOptions
from skipstone.train import ExitTraining


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


WRONG = (
    *(1.5, -1, 0, 2, True, -0.5, 10**30, -(10**30), math.nan, math.inf, -math.inf, 1e39, 1j, Fraction(1, 3)),
    *("x", "5", "", "\ud800", "a\nb", b"x", bytearray(b"x"), Mute(), object(), int, len, ..., range(3)),
    *([], (), {}, set(), ["x"], [None], [""], [1.5], [-1], ["\ud800"], [b"x"], {"5": 1.0}, {5: "x"}, {5: math.nan}),
    *({None: 1.0}, {1.5: 1.0}, {True: 1.0}, {-1: 1.0}, {10**30: 1.0}, {5: None}, {5: math.inf}, {5: 10**400}),
    *(np.float32(1.5), np.int64(-1), np.nan, np.array([1, 2]), np.array(5), np.bool_(True), np.str_("x")),
)
FIELDS = [entry.name for kind in (GenerationOptions, SamplingOptions) for entry in fields(kind)]


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder of its own: some values are names of files that are made."""
    with contextlib.chdir(tmp_path_factory.mktemp("here")):
        yield


def refused_or(action: Callable[[], object]) -> str | None:
    """Return the line of what a user may mend; any other error goes on."""
    try:
        action()
    except SkipstoneError as error:
        assert str(error) and len(str(error)) < 500
        assert "\n" not in str(error) or "a\nb" in str(error)  # the name of a file may have two lines
        return str(error)
    return None


# Kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    count: int = 1
    share: float = 0.5
    on: bool = False
    name: str = "x"
    file: str | Path | None = None
    words: tuple[str, ...] = ()
    bias: dict[int, float] = field(default_factory=dict)
    mode: Literal["slow", "fast"] = "slow"

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"share": "0.5"}, "share must be a number, got '0.5'"),
        ({"share": False}, "share must be a number, got False"),
        ({"on": 1}, "on must be True or False, got 1"),
        ({"name": b"x"}, "name must be a string, got b'x'"),
        ({"file": 5}, "file must be a string, got 5"),
        ({"words": "abc"}, "words must be a list of strings, got the single string 'abc'"),
        ({"words": ["a", 5]}, r"words\[1\] must be a string, got 5"),
        ({"bias": [5]}, r"bias must be a mapping of whole numbers to numbers, got \[5\]"),
        ({"bias": {"5": 1.0}}, "a key of bias must be a whole number, got '5'"),
        ({"bias": {5: "x"}}, r"bias\[5\] must be a number, got 'x'"),
        ({"mode": "quick"}, "mode must be slow or fast, got 'quick'"),
        ({"name": Mute()}, "name must be a string, got a Mute"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_is_wanted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Sample(**options)


def test_what_means_the_same_is_taken_as_pythons_own() -> None:
    found = Sample(
        count=np.int64(3),  # type: ignore[arg-type]
        share=np.float32(0.5),  # type: ignore[arg-type]
        on=np.bool_(True),  # type: ignore[arg-type]
        words=["a"],  # type: ignore[arg-type]
        bias={np.int64(5): 1},  # type: ignore[dict-item]
    )
    assert found == Sample(count=3, share=0.5, on=True, words=("a",), bias={5: 1})
    assert [type(value) for value in (found.count, found.share, found.on)] == [int, float, bool]
    assert Sample(share=1).share == 1


def test_none_gives_the_default() -> None:
    assert Sample(**dict.fromkeys(entry.name for entry in fields(Sample))) == Sample()


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^load\(\) got an unexpected .* 'max_thread'; did you mean max_threads\?$"):
        skipstone.load("pebble", max_thread=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^load\(\) missing a required argument: 'bundle'$"):
        skipstone.load()  # type: ignore[call-arg]


def test_arguments_of_functions_are_checked_alike() -> None:
    @checks_arguments
    def multiply(count: int, *, share: float = 0.5, **rest: Any) -> float:
        return count * share

    assert multiply(np.int64(4), share=None) == 2.0  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="count must be a whole number, got '4'"):
        multiply("4")  # type: ignore[arg-type]
    with pytest.raises(TypeError):  # a call that no function takes stays Python's own error
        multiply()  # type: ignore[call-arg]


@given(value=st.sampled_from(WRONG), kind=st.sampled_from([int, float, bool, str, Path, int | None, tuple[int, ...]]))
def test_any_value_is_either_of_the_kind_or_refused(value: object, kind: Any) -> None:
    refused_or(lambda: checked("it", value, kind))


# Options of a text


def test_the_options_of_the_reports_are_refused_or_have_a_meaning(tiny: Model, fed: list[Any]) -> None:
    model = LanguageModel(tiny)
    for name, value, message in (
        ("max_new_tokens", 1.5, "max_new_tokens must be a whole number, got 1.5"),
        ("top_k", 2.5, "top_k must be a whole number, got 2.5"),
        ("logit_bias", {"5": 1.0}, "a key of logit_bias must be a whole number, got '5'"),
        ("stop", [5], r"stop\[0\] must be a string, got 5"),
        ("stop", [""], "a stop string is empty"),
        ("seed", "x", "seed must be a whole number"),
        ("decode", 5, "decode must be a string, got 5"),
        ("logit_bias", {400: 1.0}, "logit_bias names token 400, but the last token of the model is 306"),
        ("banned_ids", (307,), "banned_ids names token 307"),
        ("banned_ids", range(307), "banned_ids bans every token"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.generate("x", **{name: value})
    assert fed == []
    plain = model.generate("x", max_new_tokens=4)
    unset = dict.fromkeys(FIELDS) | {"max_new_tokens": 4}
    unset.pop("sampling")
    assert model.generate("x", **unset).token_ids == plain.token_ids
    assert model.generate("x", stop=None, temperature=None, max_new_tokens=4).token_ids == plain.token_ids


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(FIELDS), value=st.sampled_from(WRONG), temperature=st.sampled_from([0.0, 1.0]))
def test_no_option_of_a_text_raises_anything_else_nor_later(
    tiny: Model, name: str, value: object, temperature: float
) -> None:
    """A value is refused before the model is called, or it makes a text with every way of asking."""
    model, options = LanguageModel(tiny), {"temperature": temperature, "max_new_tokens": 2} | {name: value}
    for ask in (partial(model.generate, "x"), partial(model.generate, ["x", "y"])):
        if refused_or(lambda ask=ask: ask(**options)) is not None:  # type: ignore[misc]
            assert_no_call(tiny, partial(ask, **options))
    refused_or(lambda: list(model.chat().stream("x", generation_options(**options))))


def assert_no_call(model: Model, action: Callable[[], object]) -> None:
    """Check that an action which is refused calls no model."""
    from model_calls import watching

    calls: list[object] = []
    with watching(lambda *call: calls.append(call)), pytest.raises(SkipstoneError):
        action()
    assert not calls


@settings(max_examples=150, deadline=None)
@given(
    decode=st.sampled_from(sorted(approximate_methods())),
    name=st.sampled_from(["dial", "min_agreement", "calibration"]),
    value=st.sampled_from(WRONG),
)
def test_no_dial_raises_anything_else(tiny: Model, decode: str, name: str, value: object) -> None:
    refused_or(lambda: LanguageModel(tiny).generate("x", max_new_tokens=2, decode=decode, **{name: value}))


# Prompts and all else


PROMPTS = (*WRONG, None, [5, 10**9], ["x", None], ["x", ""], ["x", "\ud800"], ["x", b"y"], "x" * 300, ["x", "y" * 300])


def are_tokens(model: Model, prompt: object) -> bool:
    """Whether a prompt is given as tokens that the model has."""
    if not isinstance(prompt, Iterable) or isinstance(prompt, str | bytes | bytearray | memoryview | Mapping):
        return False
    if isinstance(prompt, np.ndarray) and not prompt.ndim:
        return False
    tokens, known = [*prompt], range(model.manifest.dimensions.vocab_size)
    return bool(tokens) and all(is_whole(token) and token in known for token in tokens)


def is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


@pytest.mark.parametrize("decode", ["plain", "ngram"])
@settings(max_examples=100, deadline=None)
@given(prompt=st.sampled_from(PROMPTS))
def test_a_prompt_is_text_or_refused_before_any_work(tiny: Model, decode: str, prompt: Any) -> None:
    model = LanguageModel(tiny)
    ask = partial(model.generate, prompt, max_new_tokens=2, decode=decode)
    if refused_or(ask) is not None:
        assert_no_call(tiny, ask)
    if not isinstance(prompt, str):
        for wants_text in (model.stream, model.encode, partial(model.samples, count=1, temperature=1.0)):
            if not are_tokens(tiny, prompt):
                with pytest.raises(ConfigError):
                    wants_text(prompt)
        with pytest.raises(ConfigError, match="text must be a string"):
            model.chat().stream(prompt, GenerationOptions())


@settings(max_examples=300, deadline=None)
@given(value=st.sampled_from((*WRONG, None)), data=st.data())
def test_no_other_argument_raises_anything_else(tiny: Model, tmp_path_factory: Any, value: Any, data: Any) -> None:
    model = LanguageModel(tiny)
    out = tmp_path_factory.mktemp("out") / "out"
    texts = ["def add(first, second):\n    return first + second\n" * 20]
    cases: list[tuple[Callable[..., object], dict[str, object], tuple[str, ...]]] = [
        (skipstone.load, {"bundle": tiny.bundle.path}, ("bundle", "device", "suffix_memory", "draft_model")),
        (model.stream, {"prompt": "x"}, ("context_length",)),
        (model.samples, {"prompt": "x", "count": 1, "max_new_tokens": 2}, ("count", "context_length", "seed")),
        (model.choose, {"prompt": "x", "answers": ["a", "b"]}, ("prompt", "answers", "dial")),
        (model.chat, {}, ("system", "context_length", "exact", "on_full")),
        (model.chat().stream, {"text": "x", "options": GenerationOptions(max_new_tokens=1)}, ("text", "options")),
        (ExportOptions.of, {}, tuple(inspect.signature(ExportOptions.of).parameters)[:-1]),
        (ExportOptions.of, {}, ("exits", "cuts", "revision", "draft_head", "exit_adapters", "target")),
        (skipstone.export, {"checkpoint": "missing", "output": out}, ("checkpoint", "output", "check", "force", "via")),
        (ExitTraining, {}, tuple(entry.name for entry in fields(ExitTraining))),
        (bench.benchmark, {"path": tiny.bundle.path, "prompt_tokens": 2, "new_tokens": 2, "runs": 1}, ("new_tokens",)),
        (bench.benchmark, {"path": tiny.bundle.path, "new_tokens": 2, "runs": 1}, ("path", "prompt_tokens", "device")),
        (bench.compare, {"model": tiny, "suite": bench.Suite.named("code")}, ("methods", "new_tokens", "rounds")),
        (evaluate.evaluate, {"model": tiny, "texts": texts, "max_tokens": 4}, ("texts", "max_tokens")),
        (
            evaluate.evaluate_stop,
            {"model": tiny, "texts": texts, "num_prompts": 1, "prompt_tokens": 4, "new_tokens": 2, "settings": [0.5]},
            ("texts", "settings", "num_prompts", "prompt_tokens", "new_tokens", "decode"),
        ),
        (evaluate.ChoiceCase, {"prompt": "x", "answers": ("a", "b")}, ("prompt", "answers", "right")),
    ]
    function, arguments, names = data.draw(st.sampled_from(cases))
    name = data.draw(st.sampled_from(names))
    if function is bench.compare:
        arguments = {"methods": ["plain"], "new_tokens": 1} | arguments  # one new token is refused
    refused_or(lambda: function(**arguments | {name: value}))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", math.nan, 10**6, 10**30])
def test_what_is_no_number_of_threads_is_refused(tiny: Model, threads: Any) -> None:
    with pytest.raises(SkipstoneError, match="threads must be"):
        skipstone.load(tiny.bundle.path, threads=threads)


@pytest.mark.parametrize("token_ids", [[1.5], ["5"], [True], [None], "ab", b"ab", None, 5])
def test_what_is_no_token_is_no_part_of_a_text(tiny: Model, token_ids: Any) -> None:
    sequence = tiny.new_sequence()
    with pytest.raises(ConfigError, match="token_ids"):
        sequence.append(token_ids)
    assert sequence.token_ids == []
    sequence.append(np.array([5, 6]))  # type: ignore[arg-type]
    assert [type(token_id) for token_id in sequence.token_ids] == [int, int]

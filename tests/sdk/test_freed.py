"""What is dropped is freed, at once and without the garbage collector: models, texts, and what failed half way."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from carved_bundles import carved_by_hand
from conftest import MakeBundle, MakeCheckpoint
from decoding import leave_out
from model_calls import watching

import skipstone
from skipstone.errors import ConfigError, SkipstoneError
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.engine import Draft, KVCache, Model, Workspace
from skipstone.runtime.engine import Sequence as Text
from skipstone.runtime.generation import GenerationOptions, stream
from skipstone.runtime.methods import known_methods
from skipstone.runtime.methods.depth import ExitLevels, ExitThresholds, Level

PROMPT = "def f(x"
HEAVY = (onnxruntime.InferenceSession, Model, Text, Workspace, KVCache)
STATM = Path("/proc/self/statm")


def held() -> Counter[str]:
    """Return how many objects that hold much memory were made in `without_gc` and are alive, by type."""
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in HEAVY)


@contextmanager
def without_gc() -> Iterator[None]:
    """In here nothing is freed but by its last owner, and what was there before does not count."""
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.fixture(scope="module")
def folder(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that every method runs on: in stages, with experts, an exit, a head for drafts and a draft model."""
    small = make_checkpoint(num_hidden_layers=1, initializer_range=0.5)
    bundle = make_bundle(make_checkpoint(), exits="2", cuts="each", draft_model=small, draft_head=100)
    levels = {"0.5": ExpertLevel(active=(2,) * 4)}
    return carved_by_hand(bundle, tmp_path_factory.mktemp("carved") / "bundle", levels=levels)


def loaded(folder: Path) -> LanguageModel:
    """Return the model, for which skip sets and exits are known."""
    model = skipstone.load(folder)
    level = Level(agreement=0.9, metric="gap", threshold=0.01, share=0.5)
    exit = ExitLevels(num_layers=2, agreement=0.9, levels=(level,))
    known = ExitThresholds(num_tokens=999, error_rate=0.05, exits=(exit,))
    model.runtime.shared.get("exit calibration", lambda: known)
    leave_out(model.runtime, 1)
    return model


def options_for(decode: str) -> dict[str, Any]:
    """Return options with which a method runs; of an approximate one at the middle of its dial."""
    method = known_methods()[decode]
    dial = {"dial": method.dial.settings[2]} if method.only_writes else {}
    chance = {"temperature": 0.8} if method.chance == "needed" else {}
    return {"decode": decode, "max_new_tokens": 12, **dial, **chance}


@pytest.mark.parametrize("decode", [*known_methods()])
def test_a_dropped_model_is_freed_and_a_text_that_ended_before_it(folder: Path, decode: str) -> None:
    with without_gc():
        model = loaded(folder)
        for _ in range(2):
            model.generate(PROMPT, **options_for(decode))
        here = held()
        assert here["Sequence"] == 0
        assert here["Workspace"] <= here["Model"], "each keeps that of its last text for the next one"
        del model
        assert not held()


# Other uses


class Failing(Drafter):
    name = "failing"

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        raise RuntimeError("out of order")


def talk(model: LanguageModel) -> None:
    talk = model.chat(system="Be brief.")
    for text in ("One.", "Two."):
        list(talk.stream(text, GenerationOptions(max_new_tokens=6)))


def batch(model: LanguageModel) -> None:
    model.generate([PROMPT, "class", "x"], max_new_tokens=6)


def samples(model: LanguageModel) -> None:
    list(model.samples(PROMPT, 3, temperature=1.0, max_new_tokens=6))


def half_of_the_samples(model: LanguageModel) -> None:
    next(model.samples(PROMPT, 3, temperature=1.0, max_new_tokens=6))


def choice(model: LanguageModel) -> None:
    model.choose(PROMPT, ["a", "ab", "c"])


def closed(model: LanguageModel) -> None:
    with closing(model.stream(PROMPT, max_new_tokens=20)) as pieces:  # type: ignore[type-var]
        next(pieces)


def dropped_half_way(model: LanguageModel) -> None:
    next(model.stream(PROMPT, max_new_tokens=20))


def never_started(model: LanguageModel) -> None:
    model.stream(PROMPT, max_new_tokens=20)


def answer_never_started(model: LanguageModel) -> None:
    model.chat().stream("One.", GenerationOptions(max_new_tokens=6))


def interrupted_between_tokens(model: LanguageModel) -> None:
    pieces = model.stream(PROMPT, max_new_tokens=20)
    next(pieces)
    with suppress(KeyboardInterrupt):
        pieces.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def interrupted_in_a_call(model: LanguageModel) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with watching(interrupt), suppress(KeyboardInterrupt):
        model.generate(PROMPT, max_new_tokens=20)


def drafter_that_fails(model: LanguageModel) -> None:
    sequence = model.runtime.new_sequence()
    sequence.append(model.encode(PROMPT))
    with pytest.warns(RuntimeWarning, match="failing failed"):
        list(stream(model.runtime, sequence, GenerationOptions(max_new_tokens=6), drafter=Failing()))


def wrong_options(model: LanguageModel) -> None:
    for wrong in ({"max_new_tokens": 10**6}, {"decode": "cascade"}, {"context_length": 10**6}, {"top_p": -1.0}):
        with suppress(SkipstoneError):
            model.generate(PROMPT, **wrong)
            raise AssertionError(f"{wrong} was taken")


def a_sequence_kept_beyond_the_model(model: LanguageModel) -> None:
    sequence = model.runtime.new_sequence()
    sequence.fork()


USES = (
    talk,
    batch,
    samples,
    half_of_the_samples,
    choice,
    closed,
    dropped_half_way,
    never_started,
    answer_never_started,
    interrupted_between_tokens,
    interrupted_in_a_call,
    drafter_that_fails,
    wrong_options,
    a_sequence_kept_beyond_the_model,
)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_no_use_of_a_model_keeps_it(folder: Path, use: Callable[[LanguageModel], None]) -> None:
    with without_gc():
        model = loaded(folder)
        use(model)
        assert held()["Sequence"] == 0
        del model
        assert not held()


# Failed loads


def cut_short(folder: Path, file: str) -> None:
    """Break a graph of a bundle, and keep its size."""
    (folder / file).write_bytes(bytes((folder / file).stat().st_size))


@pytest.fixture(params=["skipstone.json", "stage-03.onnx", "drafter/stage-00.onnx", "drafter/skipstone.json"])
def broken(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(folder, tmp_path / "broken")
    cut_short(copy, request.param)
    return copy


def test_a_bundle_that_is_broken_leaves_nothing_open(broken: Path) -> None:
    with without_gc():
        with suppress(SkipstoneError):
            skipstone.load(broken).generate(PROMPT, decode="model", max_new_tokens=4)
            raise AssertionError("it ran")
        assert not held()


def test_a_draft_model_that_does_not_fit_leaves_nothing_open(folder: Path) -> None:
    with without_gc():
        with suppress(ConfigError):
            skipstone.load(folder, draft_model=folder)
            raise AssertionError("it was taken")
        assert not held()


# Memory


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell what memory a process holds now")
def test_after_ten_rounds_the_process_holds_no_more_than_before(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    large = make_bundle(make_checkpoint(num_hidden_layers=1, intermediate_size=24_000))
    size = (large / "weights.bin").stat().st_size
    pages = []
    for _ in range(10):
        skipstone.load(large).generate(PROMPT, max_new_tokens=4)
        pages.append(int(STATM.read_text().split()[1]))
    assert (pages[-1] - pages[2]) * 4096 < size / 4

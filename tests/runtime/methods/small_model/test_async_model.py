"""A draft model in a thread of its own: in whatever order things happen, the text is plain decoding's."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import skipstone
from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter, ModelDrafter, PlainDrafter, Round, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import DrafterContext
from skipstone.runtime.methods.small_model import AsyncDrafter, Follower, RunAhead, open_async
from skipstone.runtime.sampling import Likeliest, Picks, Sampler, SamplingOptions

PROMPT = [1, 50, 60, 70]
VOCAB_SIZE = 307
GREEDY = SamplingOptions()
OPTIONS = [
    GREEDY,
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
]


@pytest.fixture(scope="session")
def small(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """A random model of one layer."""
    return Model.open(make_bundle(make_checkpoint(num_hidden_layers=1, initializer_range=0.5)))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "draft model"]


class Pausing:
    """Chooses as `Likeliest`, after a pause by chance; `before` is called first."""

    def __init__(self, sampler: Sampler, pauses: random.Random, before: Callable[[], None] = lambda: None) -> None:
        self._picker, self._pauses, self._before, self.num_picks = Likeliest(sampler), pauses, before, 0

    def start(self, position: int) -> None:
        pass

    def pick(self, logits: NDArray[np.float32], history: SequenceOf[int], num: int) -> Picks:
        self._before()
        self.num_picks += 1
        pause(self._pauses)
        return self._picker.pick(logits, history, num)


def pause(pauses: random.Random) -> None:
    time.sleep(pauses.choice([0.0, 0.0, 0.0002, 0.001, 0.003]))


class Checked(Drafter):
    """Passes on the guesses of a drafter, each of which must be what the draft model says behind the text now."""

    name = "async-model"

    def __init__(self, drafter: Drafter, model: Model, sampler: Sampler) -> None:
        self._drafter, self._sampler = drafter, sampler
        self._text = model.new_sequence()
        self.num_guesses = 0

    def propose(self, history: SequenceOf[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        draft, text = self._drafter.propose(history, limit=limit, min_chance=min_chance), [*history]
        for guess in draft.token_ids:
            self._text.hold(text)
            assert guess == self._sampler.choose(self._text.extend(Draft.empty())[0], text), "a stale guess"
            text.append(guess)
        self.num_guesses += len(draft)
        return draft

    def observe(self, seen: Round) -> None:
        self._drafter.observe(seen)

    def finish(self, history: SequenceOf[int]) -> None:
        self._drafter.finish(history)


def sampler_of(options: SamplingOptions) -> Sampler:
    return Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))


def text_of(model: Model) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    return sequence


def opened(model: Model, picker: Pausing, *, most: int = 17) -> tuple[AsyncDrafter, RunAhead]:
    ahead = RunAhead(Follower(model, capacity=64, vocab_size=VOCAB_SIZE), picker, most=most)
    return AsyncDrafter(ModelDrafter(ahead, picker, chain=ahead.guesses, name=AsyncDrafter.name), ahead), ahead


def write(
    model: Model, drafter: Drafter, options: SamplingOptions, *, pauses: random.Random | None = None
) -> list[int]:
    """Return a text of 24 tokens, with pauses by chance between the calls; a drafter that fails is an error."""
    sequence = text_of(model)
    chosen = match(sampler_of(options), sequence.token_ids)

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        if pauses:
            pause(pauses)
        return chosen(draft, logits)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=()):
            if pauses:
                pause(pauses)
    return sequence.token_ids


@pytest.fixture(scope="session")
def plain_texts(tiny: Model) -> list[list[int]]:
    return [write(tiny, PlainDrafter(), options) for options in OPTIONS]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 30), number=st.integers(0, len(OPTIONS) - 1), knows=st.booleans())
def test_in_any_order_of_events_the_text_is_plain_and_no_guess_is_stale(
    tiny: Model, small: Model, plain_texts: list[list[int]], seed: int, number: int, knows: bool
) -> None:
    options, drafter_model = OPTIONS[number], tiny if knows else small
    picker = Pausing(sampler_of(options), random.Random(seed))
    drafter, _ = opened(drafter_model, picker)
    checked = Checked(drafter, drafter_model, sampler_of(options))
    assert write(tiny, checked, options, pauses=random.Random(seed + 1)) == plain_texts[number]
    assert checked.num_guesses > 0
    assert threads() == []


def test_while_the_text_comes_as_guessed_no_token_is_guessed_twice(tiny: Model, plain_texts: list[list[int]]) -> None:
    picker = Pausing(sampler_of(GREEDY), random.Random(0))
    drafter, ahead = opened(tiny, picker, most=9)  # a chain, and the token behind it
    sequence = text_of(tiny)
    chosen = match(sampler_of(GREEDY), sequence.token_ids)

    def accept(draft: Draft, logits: NDArray[np.float32]) -> list[int]:
        if len(draft):
            assert len([*ahead.guesses(picker, 9)]) == 9, "the target takes long enough"
        return chosen(draft, logits)

    steps = [*decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=())]
    assert sequence.token_ids == plain_texts[0]
    assert all(step.num_accepted == step.num_drafted for step in steps)
    assert ahead.num_epochs == 1
    assert picker.num_picks <= 24 + 9


def test_what_comes_otherwise_begins_a_new_epoch_and_drops_the_guess_that_is_on_its_way(small: Model) -> None:
    entered, let_go = threading.Event(), threading.Event()

    def before() -> None:
        entered.set()
        assert let_go.wait(5)

    picker = Pausing(sampler_of(GREEDY), random.Random(0), before)
    drafter, ahead = opened(small, picker)
    assert ahead.follow(PROMPT) == 17
    assert entered.wait(5), "the thread guesses behind the prompt"
    ahead.tell([9])  # before anything was guessed
    let_go.set()
    (guess,) = ahead.guesses(picker, 1)
    text = Follower(small, capacity=64, vocab_size=VOCAB_SIZE)
    text.follow([*PROMPT, 9])
    assert guess.token_ids == [int(text.logits()[0].argmax())]
    assert ahead.num_epochs == 2
    drafter.finish(PROMPT)


def test_it_runs_no_further_ahead_than_it_may(small: Model) -> None:
    picker = Pausing(sampler_of(GREEDY), random.Random(0))
    drafter, ahead = opened(small, picker, most=5)
    ahead.follow(PROMPT)
    assert len([*ahead.guesses(picker, 99)]) == 5
    time.sleep(0.02)
    assert picker.num_picks == 5
    drafter.finish(PROMPT)


def test_a_text_that_is_left_ends_the_thread(tiny: Model, small: Model) -> None:
    drafter, _ = opened(small, Pausing(sampler_of(GREEDY), random.Random(0)))
    sequence = text_of(tiny)
    accept = match(sampler_of(GREEDY), sequence.token_ids)
    steps = decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=())
    next(steps), next(steps)
    assert len(threads()) == 1
    steps.close()
    assert threads() == []


def test_a_drafter_that_nobody_finishes_ends_its_thread_when_it_goes(small: Model) -> None:
    drafter, _ = opened(small, Pausing(sampler_of(GREEDY), random.Random(0)))
    assert drafter.propose(PROMPT, limit=3).source == "async-model"
    assert len(threads()) == 1
    del drafter, _
    gc.collect()
    assert threads() == []


def test_a_drafter_that_was_never_asked_has_no_thread_and_one_that_is_closed_gives_nothing(small: Model) -> None:
    picker = Pausing(sampler_of(GREEDY), random.Random(0))
    drafter, ahead = opened(small, picker)
    assert [*ahead.guesses(picker, 3)] == []
    drafter.finish(PROMPT)
    drafter.finish(PROMPT)
    assert threads() == []


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for_and_the_text_goes_on(
    tiny: Model, small: Model, plain_texts: list[list[int]]
) -> None:
    def fail() -> None:
        if len(picks) == 6:
            raise OSError("the device is gone")
        picks.append(None)

    picks: list[None] = []
    drafter, _ = opened(small, Pausing(sampler_of(GREEDY), random.Random(0), fail))
    sequence = text_of(tiny)
    accept = match(sampler_of(GREEDY), sequence.token_ids)
    with pytest.warns(RuntimeWarning, match="async-model failed and is left out .* the device is gone"):
        for _step in decode(sequence, drafter=drafter, accept=accept, max_new_tokens=24, stop_ids=()):
            pass
    assert sequence.token_ids == plain_texts[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals wake no waiting thread there")
def test_ctrl_c_while_a_guess_is_waited_for_ends_the_text_and_the_thread(tiny: Model, small: Model) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)

    drafter, _ = opened(small, Pausing(sampler_of(GREEDY), random.Random(0), interrupt))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            write(tiny, drafter, GREEDY)
    finally:
        signal.signal(signal.SIGINT, before)
    assert threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_in_a_forked_process_it_is_refused_and_not_waited_for(small: Model) -> None:
    drafter, ahead = opened(small, Pausing(sampler_of(GREEDY), random.Random(0)))
    drafter.propose(PROMPT, limit=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        child = os.fork()
    if not child:
        try:
            drafter.propose([*PROMPT, 9], limit=2)
        except ConfigError as error:
            ahead.close()
            os._exit(0 if "was forked" in str(error) else 2)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    drafter.finish(PROMPT)


@pytest.fixture(scope="session")
def pair(tiny_checkpoint: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> skipstone.LanguageModel:
    drafter = make_checkpoint(num_hidden_layers=1, initializer_range=0.5)
    return skipstone.load(make_bundle(tiny_checkpoint, drafter=drafter))


@pytest.mark.parametrize("decode", ["async-model", "ngram,async-model", "async-model,recycle"])
@pytest.mark.parametrize("exact", [True, False])
def test_generate_takes_it_alone_and_beside_others(pair: skipstone.LanguageModel, decode: str, exact: bool) -> None:
    found, plain = (
        pair.generate("def f(x, y, x, y", max_new_tokens=30, decode=name, exact=exact) for name in (decode, "plain")
    )
    assert found.token_ids == plain.token_ids
    assert found.stats.drafters["async-model"].drafted > 0


def test_copies_of_a_text_have_drafters_of_their_own(pair: skipstone.LanguageModel) -> None:
    found, plain = (
        [text.token_ids for text in pair.samples("def f(", 3, temperature=0.9, seed=1, max_new_tokens=16, decode=name)]
        for name in ("async-model", "plain")
    )
    assert found == plain


@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_rules_that_need_drawn_guesses_are_refused_unless_nothing_is_drawn(
    pair: skipstone.LanguageModel, rule: str
) -> None:
    with pytest.raises(ConfigError, match=f"so {rule} would draw another text each time; leave verify at match, or"):
        pair.generate("def f(", max_new_tokens=8, decode="async-model", verify=rule, temperature=0.8, seed=1)
    found, plain = (
        pair.generate("def f(", max_new_tokens=8, decode=name, verify=verify)
        for name, verify in (("async-model", rule), ("plain", "match"))
    )
    assert found.token_ids == plain.token_ids


def test_auto_does_not_weigh_it(pair: skipstone.LanguageModel) -> None:
    found = pair.generate("def f(", max_new_tokens=24, decode="auto")
    assert "async-model" not in found.stats.drafters


def test_a_bundle_without_a_small_model_is_refused(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=sampler_of(GREEDY), sequence=text_of(tiny))
    with pytest.raises(ConfigError, match="'async-model' needs a small model, and the bundle has none"):
        open_async(context)

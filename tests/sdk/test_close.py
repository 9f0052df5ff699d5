"""A model that is closed: its memory is free, and whatever is asked of it gets one clear line."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint

import skipstone
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel

PROMPT = "def add(first, second):"
CLOSED = "^this model is closed; load it again with skipstone.load$"


@pytest.fixture(scope="module")
def folder(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    return make_bundle(make_checkpoint(), exits="2", draft_model=make_checkpoint(num_hidden_layers=1))


@pytest.fixture
def model(folder: Path) -> LanguageModel:
    return skipstone.load(folder)


USES: dict[str, Callable[[LanguageModel], Any]] = {
    "generate": lambda model: model.generate(PROMPT),
    "stream": lambda model: model.stream(PROMPT),
    "batch": lambda model: model.generate([PROMPT, "x"]),
    "samples": lambda model: model.samples(PROMPT, 2, temperature=1.0),
    "choose": lambda model: model.choose(PROMPT, ["a", "b"]),
    "conversation": lambda model: model.chat(),
    "messages": lambda model: model.chat([{"role": "user", "content": "hi"}]),
    "suggest": lambda model: model.suggest(PROMPT),
    "suggester": lambda model: model.suggester(),
    "encode": lambda model: model.encode(PROMPT),
    "options": lambda model: model.options(),
    "runtime": lambda model: model.runtime,
    "with": lambda model: model.__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_asked_of_a_closed_model_raises_one_clear_error(model: LanguageModel, use: str) -> None:
    model.close()
    model.close()
    with pytest.raises(ConfigError, match=CLOSED):
        USES[use](model)


def test_with_closes_it_at_the_end_also_when_something_is_raised(folder: Path) -> None:
    with skipstone.load(folder) as model:
        wanted = model.generate(PROMPT, max_new_tokens=4).text
    with pytest.raises(LookupError), skipstone.load(folder) as other:
        assert other.generate(PROMPT, max_new_tokens=4).text == wanted
        raise LookupError
    for closed in (model, other):
        with pytest.raises(ConfigError, match=CLOSED):
            closed.generate(PROMPT)


@pytest.mark.filterwarnings("ignore:drafter model failed")
def test_closing_frees_the_sessions_though_conversations_and_begun_texts_are_there(model: LanguageModel) -> None:
    conversation, suggester = model.chat(), model.suggester()
    conversation.reply("hi", max_new_tokens=4)
    suggester.suggest("def")
    begun = model.stream(PROMPT, max_new_tokens=20, decode="model")
    next(begun)
    small = model.runtime.draft_model
    assert small is not None
    sessions = [weakref.ref(graph) for one in (model.runtime, small) for graph in one.sessions.graphs]
    runtime = weakref.ref(model.runtime)
    del small
    assert all(session() for session in sessions)
    model.close()
    assert not any(session() for session in sessions)
    messages = list(conversation.messages)
    with pytest.raises(ConfigError, match=CLOSED):
        conversation.reply("hi")
    with pytest.raises(ConfigError, match=CLOSED):
        suggester.suggest("x")
    with pytest.raises(ConfigError, match=CLOSED):
        next(begun)
    assert conversation.messages == messages
    del conversation, suggester, begun
    assert runtime() is None


def test_closing_frees_what_a_cancelled_prompt_held(model: LanguageModel) -> None:
    cancel = skipstone.Cancellation()
    sessions = [weakref.ref(graph) for graph in model.runtime.sessions.graphs]
    model.runtime.prefill_chunk = 32
    gc.disable()
    try:
        text = model.generate(PROMPT * 6, max_new_tokens=2, cancel=cancel, on_prompt=lambda progress: cancel.cancel())
        model.close()
        assert text.finish_reason == "cancelled" and not any(session() for session in sessions)
    finally:
        gc.enable()


def test_closing_waits_for_the_call_in_another_thread_and_the_text_there_ends(model: LanguageModel) -> None:
    has_begun, errors = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            for _ in model.stream(
                PROMPT, max_new_tokens=200, decode="plain", banned_ids=model.runtime.manifest.stop_ids
            ):
                has_begun.set()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    has_begun.wait()
    model.close()
    thread.join(10)
    assert [str(error) for error in errors] == ["this model is closed; load it again with skipstone.load"]


def test_closing_within_a_call_of_this_thread_is_refused(model: LanguageModel) -> None:
    with model.runtime.sessions.gate, pytest.raises(ConfigError, match="close the model behind it"):
        model.close()
    assert model.generate(PROMPT, max_new_tokens=2).text is not None


def test_a_processor_may_close_the_model_and_the_text_ends_there(model: LanguageModel) -> None:
    def closing(token_ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        model.close()
        return logits

    with pytest.raises(ConfigError, match=CLOSED):
        model.generate(PROMPT, processors=[closing], decode="plain", max_new_tokens=3)


def test_another_model_of_the_same_bundle_goes_on(folder: Path) -> None:
    first, second = skipstone.load(folder), skipstone.load(folder)
    wanted = first.generate(PROMPT, max_new_tokens=4).text
    first.close()
    assert second.generate(PROMPT, max_new_tokens=4).text == wanted

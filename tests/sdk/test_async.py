"""Texts for asyncio: the same text, a loop that never waits, and a task whose end is the model's."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import skipstone
from skipstone.errors import ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, Piece
from skipstone.runtime.text import ChatTemplate

PROMPT = "def add(first, second):"
TEMPLATE = "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}<s>"
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "stop_loops": 0}


@pytest.fixture(scope="module")
def model(tiny: Model) -> LanguageModel:
    runtime = copy.copy(tiny)
    runtime.chat_template = ChatTemplate(TEMPLATE)
    return LanguageModel(runtime)


async def all_of(pieces: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in pieces]


def slowly(token_ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    time.sleep(0.01)
    return logits


def test_the_pieces_are_those_of_stream(model: LanguageModel) -> None:
    found = asyncio.run(all_of(model.astream(PROMPT, **OPTIONS)))
    wanted = list(model.stream(PROMPT, **OPTIONS))
    assert [(piece.text, piece.token_ids) for piece in found] == [(piece.text, piece.token_ids) for piece in wanted]
    assert asyncio.run(model.agenerate(PROMPT, **OPTIONS)).text == Generation.join(wanted).text


def test_messages_and_conversations_are_answered_alike(model: LanguageModel) -> None:
    async def answers() -> list[str]:
        messages, options = [{"role": "user", "content": "Hello"}], {"seed": 1, **OPTIONS}
        conversation = model.chat()
        whole = await model.achat(messages, **options)
        pieces = await all_of(model.achat(messages, stream=True, **options))
        replied = await conversation.areply("Hello", **options)
        streamed = await all_of(model.chat().astream("Hello", **options))
        assert conversation.messages[-1] == {"role": "assistant", "content": replied.text}
        return [whole.text, Generation.join(pieces).text, replied.text, Generation.join(streamed).text]

    assert len(set(asyncio.run(answers()))) == 1


def test_the_loop_runs_while_the_model_does(model: LanguageModel) -> None:
    async def ticks_meanwhile() -> int:
        ticks, writing = 0, asyncio.create_task(model.agenerate(PROMPT, processors=[slowly], **OPTIONS))
        while not writing.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await writing
        return ticks

    assert asyncio.run(ticks_meanwhile()) > 12


def test_no_piece_is_made_before_it_is_asked_for(model: LanguageModel) -> None:
    calls: list[int] = []

    def counting(token_ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(token_ids))
        return logits

    async def take_two() -> None:
        pieces = model.astream(PROMPT, processors=[counting], decode="plain", **OPTIONS)
        await anext(pieces)
        await anext(pieces)
        await asyncio.sleep(0.05)
        await pieces.aclose()

    asyncio.run(take_two())
    assert len(calls) == 2


def test_several_at_once_share_the_model_and_each_has_its_own_text(model: LanguageModel) -> None:
    prompts = [f"{PROMPT} # {number}" for number in range(5)]
    order: list[int] = []

    async def write(number: int) -> str:
        text = ""
        async for piece in model.astream(prompts[number], processors=[slowly], decode="plain", **OPTIONS):
            order.append(number)
            text += piece.text
        return text

    async def write_all() -> list[str]:
        return await asyncio.gather(*map(write, range(5)))

    assert asyncio.run(write_all()) == [model.generate(prompt, decode="plain", **OPTIONS).text for prompt in prompts]
    assert len(set(order[:15])) > 3, "they take turns"


def test_a_task_that_is_cancelled_ends_the_model_call_and_the_thread(model: LanguageModel) -> None:
    steps: list[int] = []

    def noting(token_ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        steps.append(len(token_ids))
        time.sleep(0.005)
        return logits

    async def cancel_soon() -> None:
        task = asyncio.create_task(all_of(model.astream(PROMPT, processors=[noting], max_new_tokens=150)))
        while len(steps) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        made = len(steps)
        await asyncio.sleep(0.05)
        assert len(steps) == made < 20

    asyncio.run(cancel_soon())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skipstone text")]


def test_a_task_is_cancelled_while_the_prompt_is_read(model: LanguageModel) -> None:
    runtime = copy.copy(model.runtime)
    runtime.prefill_chunk = 8
    read: list[int] = []

    async def cancel_at_the_first_piece() -> None:
        has_begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def noting(progress: skipstone.PromptProgress) -> None:
            read.append(progress.num_read)
            loop.call_soon_threadsafe(has_begun.set)
            time.sleep(0.02)

        prompt = PROMPT * 12
        task = asyncio.create_task(LanguageModel(runtime).agenerate(prompt, on_prompt=noting, max_new_tokens=2))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_at_the_first_piece())
    assert 0 < len(read) < 4


def test_a_conversation_keeps_what_was_said_when_its_task_was_cancelled(model: LanguageModel) -> None:
    conversation = model.chat()

    async def leave() -> str:
        pieces, text = conversation.astream("Hello", seed=1, max_new_tokens=100), ""
        for _ in range(3):
            text += (await anext(pieces)).text
        await pieces.aclose()
        return text

    said = asyncio.run(leave())
    assert conversation.messages[-1] == {"role": "assistant", "content": said}
    assert conversation.reply("and?", max_new_tokens=3, seed=1).text is not None


def test_a_cancellation_from_another_thread_ends_the_text_with_its_figures(model: LanguageModel) -> None:
    cancel = skipstone.Cancellation()

    async def write() -> Generation:
        threading.Timer(0.05, cancel.cancel).start()
        return await model.agenerate(PROMPT, processors=[slowly], cancel=cancel, max_new_tokens=200)

    text = asyncio.run(write())
    assert text.finish_reason == "cancelled" and text.stats.new_tokens < 200


def test_errors_arrive_with_the_first_piece(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="did you mean max_new_tokens"):
        asyncio.run(model.agenerate(PROMPT, max_new_token=1))
    with pytest.raises(ConfigError, match="the prompt is empty"):
        asyncio.run(all_of(model.astream("")))

    def failing(token_ids: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        raise LookupError("no rule")

    with pytest.raises(LookupError, match="no rule"):
        asyncio.run(model.achat([{"role": "user", "content": "x"}], processors=[failing]))


def test_texts_of_several_threads_stay_what_they_are(model: LanguageModel) -> None:
    prompts = [f"{PROMPT} # {number}" for number in range(4)]
    texts: dict[str, str] = {}

    def write(prompt: str) -> None:
        texts[prompt] = model.generate(prompt, **OPTIONS).text

    threads = [threading.Thread(target=write, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {prompt: model.generate(prompt, **OPTIONS).text for prompt in prompts}


@pytest.mark.parametrize("call", ["generate", "chat", "reply", "achat"])
def test_another_thread_cancels_while_the_prompt_is_read(model: LanguageModel, call: str) -> None:
    runtime = copy.copy(model.runtime)
    runtime.prefill_chunk = 8
    reader, cancel, has_begun = LanguageModel(runtime), skipstone.Cancellation(), threading.Event()
    num_read: list[int] = []

    def noting(progress: skipstone.PromptProgress) -> None:
        num_read.append(progress.num_read)
        has_begun.set()
        time.sleep(0.02)

    def cancel_soon() -> None:
        has_begun.wait(10)
        cancel.cancel()

    canceller = threading.Thread(target=cancel_soon)
    canceller.start()
    options: dict[str, Any] = {"max_new_tokens": 20, "cancel": cancel, "on_prompt": noting}
    messages = [{"role": "user", "content": PROMPT * 8}]
    texts = {
        "generate": lambda: reader.generate(PROMPT * 8, **options),
        "chat": lambda: reader.chat(messages, **options),
        "reply": lambda: reader.chat().reply(PROMPT * 8, **options),
        "achat": lambda: asyncio.run(reader.achat(messages, **options)),
    }
    text = texts[call]()
    canceller.join()
    assert text.finish_reason == "cancelled" and not text.token_ids
    assert len(num_read) < 4

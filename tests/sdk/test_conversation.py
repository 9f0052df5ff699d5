"""Chats: what was seen stays seen, and every answer is the one that a fresh model would give."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from skipstone.conversation import Conversation
from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, stream
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.text import ChatTemplate

TEMPLATE = """\
{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>
{% endfor %}
{% if add_generation_prompt %}<s>assistant: {% endif %}"""
FREE = GenerationOptions(max_new_tokens=8, decode="plain")


@pytest.fixture(scope="session")
def chat_model(tiny: Model) -> Model:
    model = copy.copy(tiny)
    model.chat_template = ChatTemplate(TEMPLATE)
    return model


@pytest.fixture(scope="session")
def in_digits(tiny: Model) -> GenerationOptions:
    """Answers of digits: each is a token of its own, so that an answer is the same tokens when it is read again."""
    digits = tiny.tokenizer.encode("0123456789")
    assert len(digits) == 10
    others = tuple(token_id for token_id in range(307) if token_id not in digits)
    return GenerationOptions(max_new_tokens=8, sampling=SamplingOptions(banned_ids=others), decode="plain")


def say(conversation: Conversation, text: str, options: GenerationOptions = FREE) -> Generation:
    return Generation.join(list(conversation.stream(text, options)))


def prompt_ids(model: Model, conversation: Conversation, text: str) -> list[int]:
    """Return what the model should have read before its answer to `text`."""
    messages = [*conversation.messages, {"role": "user", "content": text}]
    if model.chat_template is None:
        return model.tokenizer.encode("".join(message["content"] for message in messages))
    return model.tokenizer.encode(model.chat_template.render(messages), add_special_tokens=False)


def fresh_answer(model: Model, token_ids: list[int], options: GenerationOptions) -> Generation:
    sequence = model.new_sequence()
    sequence.append(token_ids)
    return Generation.join(list(stream(model, sequence, options)))


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("with_template", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_answer_is_the_one_of_a_fresh_model_that_reads_all_turns(
    tiny: Model, chat_model: Model, system: str | None, with_template: bool, temperature: float
) -> None:
    model = chat_model if with_template else tiny
    options = GenerationOptions(max_new_tokens=8, sampling=SamplingOptions(temperature=temperature, seed=3))
    conversation = Conversation(model, system=system)
    for text in ("Hello", "and a fox?", "bye"):
        token_ids = prompt_ids(model, conversation, text)
        answer = say(conversation, text, options)
        wanted = fresh_answer(model, token_ids, options)
        assert (answer.text, answer.token_ids) == (wanted.text, wanted.token_ids)
        assert answer.prompt_tokens == len(token_ids)


def test_messages_hold_both_sides_in_turn(chat_model: Model) -> None:
    conversation = Conversation(chat_model, system="Be brief.")
    answers = [say(conversation, text).text for text in ("Hello", "Bye")]
    assert conversation.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": answers[0]},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": answers[1]},
    ]


def test_only_new_tokens_are_computed_between_turns(
    chat_model: Model, in_digits: GenerationOptions, fed: list[tuple[int, ...]]
) -> None:
    conversation = Conversation(chat_model)
    num_seen = 0
    for text in ("Hello", "and a fox?", "bye"):
        token_ids = prompt_ids(chat_model, conversation, text)
        fed.clear()
        say(conversation, text, in_digits)
        assert fed == [(1, len(token_ids) - num_seen)] + [(1, 1)] * 7
        num_seen = len(token_ids) + 7  # the last token of the answer was made and not read


def test_an_answer_that_reads_back_as_other_tokens_is_computed_again(
    chat_model: Model, fed: list[tuple[int, ...]]
) -> None:
    conversation = Conversation(chat_model)
    made = say(conversation, "Hello")
    before = conversation.token_ids
    token_ids = prompt_ids(chat_model, conversation, "more")
    num_shared = next(at for at, pair in enumerate(zip(before, token_ids, strict=False)) if pair[0] != pair[1])
    assert num_shared < made.prompt_tokens + len(made.token_ids), "pick another greeting: this answer reads back whole"
    fed.clear()
    answer = say(conversation, "more")
    assert fed[0] == (1, len(token_ids) - (num_shared - 1))  # the last shared token counts as pending
    assert answer.token_ids == fresh_answer(chat_model, token_ids, FREE).token_ids


@pytest.mark.parametrize("num_pieces", [1, 3])
def test_a_cancelled_answer_stays_as_far_as_it_came(
    chat_model: Model, in_digits: GenerationOptions, fed: list[tuple[int, ...]], num_pieces: int
) -> None:
    conversation = Conversation(chat_model)
    pieces: Iterator[Piece] = conversation.stream("Hello", in_digits)
    shown = "".join(next(pieces).text for _ in range(num_pieces))
    pieces.close()  # type: ignore[attr-defined]
    assert conversation.messages[-1] == {"role": "assistant", "content": shown}
    assert len(shown) == num_pieces
    token_ids = prompt_ids(chat_model, conversation, "go on")
    num_seen = len(conversation.token_ids) - 1
    fed.clear()
    answer = say(conversation, "go on", in_digits)
    assert fed[0] == (1, len(token_ids) - num_seen)
    assert answer.token_ids == fresh_answer(chat_model, token_ids, in_digits).token_ids


def test_an_answer_that_was_never_asked_for_leaves_no_message(chat_model: Model) -> None:
    conversation = Conversation(chat_model)
    say(conversation, "Hello")
    messages = list(conversation.messages)
    conversation.stream("never mind", FREE)
    assert conversation.messages == messages
    token_ids = prompt_ids(chat_model, conversation, "Bye")
    assert say(conversation, "Bye").token_ids == fresh_answer(chat_model, token_ids, FREE).token_ids


def test_a_turn_that_does_not_fit_leaves_the_conversation_as_it_was(chat_model: Model) -> None:
    conversation = Conversation(chat_model, context_length=60)
    say(conversation, "Hi")
    messages = list(conversation.messages)
    token_ids = list(conversation.token_ids)
    with pytest.raises(CacheFull, match="the context holds 60; shorten it, or raise --context up to 256"):
        conversation.stream("quite a long message" * 3, FREE)
    assert (conversation.messages, conversation.token_ids) == (messages, token_ids)
    small = GenerationOptions(max_new_tokens=1, decode="plain")
    wanted = fresh_answer(chat_model, prompt_ids(chat_model, conversation, "x"), small)
    assert say(conversation, "x", small).token_ids == wanted.token_ids


def test_an_empty_message_is_refused(chat_model: Model) -> None:
    conversation = Conversation(chat_model)
    with pytest.raises(ConfigError, match="the message is empty"):
        conversation.stream("", FREE)
    assert conversation.messages == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": "exit", "dial": 0.9}, "the bundle has no exits"),
        ({"decode": "switch", "dial": 1.0}, "'switch' needs a small model"),
        ({"decode": "model"}, "'model' needs a small model"),
        ({"exact": True}, r"a conversation with chat\(exact=True\)"),
    ],
)
def test_a_turn_that_is_refused_leaves_the_conversation_as_it_was(
    chat_model: Model, changes: dict[str, Any], message: str
) -> None:
    conversation = Conversation(chat_model)
    say(conversation, "Hello")
    messages = list(conversation.messages)
    with pytest.raises(ConfigError, match=message):
        conversation.stream("and a fox?", GenerationOptions(max_new_tokens=8, **changes))
    assert conversation.messages == messages
    token_ids = prompt_ids(chat_model, conversation, "Bye")
    assert say(conversation, "Bye").token_ids == fresh_answer(chat_model, token_ids, FREE).token_ids


def test_a_conversation_can_be_exact(chat_model: Model) -> None:
    conversation = LanguageModel(chat_model).chat(exact=True)
    options = GenerationOptions(max_new_tokens=8, exact=True)
    token_ids = prompt_ids(chat_model, conversation, "Hello")
    sequence = chat_model.new_sequence(exact=True)
    sequence.append(token_ids)
    wanted = Generation.join(list(stream(chat_model, sequence, options)))
    assert say(conversation, "Hello", options).token_ids == wanted.token_ids


def test_an_answer_ends_at_a_stop_string_and_the_chat_goes_on(chat_model: Model, in_digits: GenerationOptions) -> None:
    whole = say(Conversation(chat_model), "Hello", in_digits).text
    conversation = Conversation(chat_model)
    options = GenerationOptions(max_new_tokens=8, sampling=in_digits.sampling, stop=(whole[3:5],))
    answer = say(conversation, "Hello", options)
    assert answer.text == whole[: whole.index(whole[3:5])] and answer.finish_reason == "stop"
    assert conversation.messages[-1]["content"] == answer.text
    token_ids = prompt_ids(chat_model, conversation, "Bye")
    assert say(conversation, "Bye").token_ids == fresh_answer(chat_model, token_ids, FREE).token_ids


def test_a_language_model_opens_conversations_that_do_not_share_their_text(chat_model: Model) -> None:
    first, second = (LanguageModel(chat_model).chat(system=system) for system in ("Be brief.", "Be long."))
    answers = [say(chat, "Hello").token_ids for chat in (first, second)]
    for system, answer in (("Be brief.", answers[0]), ("Be long.", answers[1])):
        assert say(LanguageModel(chat_model).chat(system=system), "Hello").token_ids == answer


def test_an_answer_ends_where_the_template_ends_it_in_plain_text(tiny: Model) -> None:
    """A vocabulary may lack the token of a template: the model then writes it letter by letter."""
    model, long = copy.copy(tiny), replace(FREE, max_new_tokens=40)

    def answer(end: str) -> str:
        closed = "{% if message.role == 'assistant' %}" + end + "{% endif %}"
        template = "{% for message in messages %}" + "{{ message.content }}" + closed + "\n{% endfor %}"
        model.chat_template = ChatTemplate(template)
        return say(Conversation(model), "Hello", long).text

    free = answer("</s>")
    end = next(free[at : at + 3] for at in range(4, len(free)) if free[at : at + 3].isalpha())
    assert answer(end) == free[: free.index(end)] != free
    assert answer(end[:1]) == free, "one letter ends nothing"

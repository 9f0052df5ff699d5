"""Answers to messages: the text of a conversation's turn, and every other shape refused in one line."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from skipstone.errors import CacheFull, ConfigError, SkipstoneError
from skipstone.language_model import LanguageModel
from skipstone.messages import checked_messages
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation
from skipstone.runtime.text import ChatTemplate

TEMPLATE = """\
{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>
{% endfor %}
{% if add_generation_prompt %}<s>assistant: {% endif %}"""


@pytest.fixture(scope="module")
def model(tiny: Model) -> LanguageModel:
    runtime = copy.copy(tiny)
    runtime.chat_template = ChatTemplate(TEMPLATE)
    return LanguageModel(runtime)


def user(content: Any = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 1.0, "stop": "a"}])
@pytest.mark.parametrize("with_template", [True, False])
def test_the_answer_is_the_first_turn_of_a_conversation(
    tiny: Model, model: LanguageModel, with_template: bool, options: dict[str, Any]
) -> None:
    model = model if with_template else LanguageModel(tiny)
    options = {"max_new_tokens": 12, "seed": 5, **options}
    found = model.chat([{"role": "system", "content": "Be brief."}, user()], **options)
    wanted = model.chat(system="Be brief.").reply("Hello", **options)
    assert (found.text, found.token_ids) == (wanted.text, wanted.token_ids)


def test_a_talk_given_as_messages_is_answered_as_the_conversation_goes_on(model: LanguageModel) -> None:
    conversation = model.chat(system="Be brief.")
    for text in ("Hello", "and you?"):
        conversation.reply(text, max_new_tokens=8, seed=1)
    messages = [*conversation.messages, user("Bye")]
    assert (
        model.chat(messages, max_new_tokens=8, seed=2).text == conversation.reply("Bye", max_new_tokens=8, seed=2).text
    )


def test_pieces_join_to_the_answer(model: LanguageModel) -> None:
    pieces = list(model.chat([user()], stream=True, max_new_tokens=8, seed=1))
    assert Generation.join(pieces).text == model.chat([user()], max_new_tokens=8, seed=1).text


def test_parts_that_are_text_are_one_string(model: LanguageModel) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert checked_messages([user(parts)]) == [user()]
    assert model.chat([user(parts)], seed=1).text == model.chat([user()], seed=1).text


def test_a_call_of_a_tool_needs_no_words_and_its_result_is_answered() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    result = {"role": "tool", "content": "21 degrees", "tool_call_id": "1"}
    assert checked_messages([user(), call, result]) == [user(), {**call, "content": ""}, result]


def test_a_role_that_the_template_names_is_taken_beside_the_usual_ones() -> None:
    template = ChatTemplate("{% if messages[0].role == 'document' %}{{ messages[0].content }}{% endif %}")
    document = {"role": "document", "content": "Foxes."}
    assert checked_messages([document, user()], template) == [document, user()]
    with pytest.raises(ConfigError, match="has the role 'document'"):
        checked_messages([document, user()], ChatTemplate(TEMPLATE))


@pytest.mark.parametrize("talks", [False, True])
def test_a_template_that_wants_parts_gets_them(tiny: Model, model: LanguageModel, talks: bool) -> None:
    runtime = copy.copy(tiny)
    content = "{% for part in message.content %}{{ part.text }}{% endfor %}"
    runtime.chat_template = ChatTemplate(TEMPLATE.replace("{{ message.content }}", content))
    assert runtime.chat_template.wants_parts and not ChatTemplate(TEMPLATE).wants_parts
    of_parts, options = LanguageModel(runtime), {"max_new_tokens": 8, "seed": 1}
    if talks:
        found, wanted = (one.chat(system="Be brief.").reply("Hello", **options) for one in (of_parts, model))
    else:
        found, wanted = (one.chat([user()], **options) for one in (of_parts, model))
    assert (found.token_ids, found.prompt_tokens) == (wanted.token_ids, wanted.prompt_tokens)


def test_the_given_messages_stay_as_they_are() -> None:
    given = [user([{"type": "text", "text": "a"}])]
    checked_messages(given)
    assert given == [user([{"type": "text", "text": "a"}])]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the list of messages is empty"),
        ("hi", "messages must be a list such as .*, got 'hi'"),
        (user(), "messages must be a list such as"),
        (5, "messages must be a list such as .*, got 5"),
        (["hi"], r"messages\[0\] must be a mapping of role and content, got 'hi'"),
        ([{5: "x"}], r"messages\[0\] must be a mapping"),
        ([{"content": "hi"}], r"messages\[0\] has no role; roles are system, developer, user, assistant, tool"),
        ([{"role": "usr", "content": "hi"}], r"messages\[0\] has the role 'usr'; roles are"),
        ([{"role": ["user"], "content": "hi"}], r"messages\[0\] has the role \['user'\]"),
        ([{"role": "user"}], r"messages\[0\] has no content; give it a string"),
        ([user(None)], r"messages\[0\] has no content"),
        ([user("")], r"the message messages\[0\] is empty"),
        ([user([])], r"the message messages\[0\] is empty"),
        ([user(5)], r"messages\[0\]\['content'\] must be a string, got 5"),
        ([user([5])], r"messages\[0\]\['content'\]\[0\] must be a part such as"),
        ([user([{"type": "text"}])], r"messages\[0\]\['content'\]\[0\] has no text"),
        ([user([{"type": "image_url", "image_url": "x"}])], "of the type 'image_url', and models here read text only"),
        ([user(), {"role": "assistant", "content": "x"}], "the last message is the assistant's"),
        ([{"role": "system", "content": "x"}], "the last message is the system's"),
        ([user("\ud800")], "half a character"),
    ],
)
def test_any_other_shape_is_refused_in_one_line(model: LanguageModel, messages: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        model.chat(messages)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"messages": [user()], "system": "x"}, "put the system prompt into the messages"),
        ({"messages": [user()], "on_full": "drop"}, "are for a conversation"),
        ({"stream": True}, "there are none; give some"),
        ({"max_new_tokens": 5}, "max_new_tokens given without messages"),
        ({"messages": [user()], "stream": 1}, "stream must be True or False"),
    ],
)
def test_options_of_a_conversation_and_of_an_answer_are_kept_apart(
    model: LanguageModel, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model.chat(**arguments)


def test_an_answer_is_cut_where_the_context_ends_and_a_prompt_beyond_it_is_refused(model: LanguageModel) -> None:
    options = {"temperature": 0, "max_new_tokens": 64, "stop_loops": 0, "context_length": 40}
    answer = model.chat([user()], **options)
    assert answer.prompt_tokens + len(answer.token_ids) <= 40
    with pytest.raises(CacheFull, match="cache holds 40 tokens"):
        model.chat([user("Hello " * 40)], **options)


def test_what_a_template_refuses_is_said_in_its_words(tiny: Model) -> None:
    runtime = copy.copy(tiny)
    runtime.chat_template = ChatTemplate("{{ raise_exception('no tools here') }}")
    with pytest.raises(SkipstoneError, match="chat template, line 1: no tools here"):
        LanguageModel(runtime).chat([user()])


def test_a_conversation_takes_options_by_name_for_whole_answers_and_for_pieces(model: LanguageModel) -> None:
    whole = model.chat().reply("hi", max_new_tokens=5, temperature=0)
    pieces = list(model.chat().stream("hi", max_new_tokens=5, temperature=0))
    assert Generation.join(pieces).text == whole.text and len(whole.token_ids) <= 5

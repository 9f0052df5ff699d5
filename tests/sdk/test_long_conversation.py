"""Chats longer than their context: the oldest turns leave, the talk goes on, and every answer is a fresh model's."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.conversation import Conversation
from skipstone.errors import CacheFull, ConfigError
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import Generation, GenerationOptions, stream
from skipstone.runtime.sampling import SamplingOptions
from skipstone.runtime.text import ChatTemplate

# The turns must alternate and begin with the user's, as many templates want it.
TEMPLATE = """\
{% if messages[0].role == 'system' %}<s>system: {{ messages[0].content }}</s>
{% set messages = messages[1:] %}{% endif %}\
{% for message in messages %}\
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
<s>{{ message.role }}: {{ message.content }}</s>
{% endfor %}
{% if add_generation_prompt %}<s>assistant: {% endif %}"""


@pytest.fixture(scope="module")
def chat_model(tiny: Model) -> Model:
    return with_template(tiny)


def with_template(model: Model) -> Model:
    changed = copy.copy(model)
    changed.chat_template = ChatTemplate(TEMPLATE)
    return changed


def in_digits(model: Model) -> SamplingOptions:
    """Answers of digits read back as the tokens they were."""
    digits = model.tokenizer.encode("0123456789")
    return SamplingOptions(banned_ids=tuple(set(range(307)) - set(digits)))


def say(conversation: Conversation, text: str, options: GenerationOptions) -> Generation:
    return Generation.join(list(conversation.stream(text, options)))


def prompt_of(model: Model, messages: list[dict[str, str]]) -> list[int]:
    if model.chat_template is None:
        return model.tokenizer.encode("".join(message["content"] for message in messages))
    return model.tokenizer.encode(model.chat_template.render(messages), add_special_tokens=False)


def fresh_answer(model: Model, token_ids: list[int], options: GenerationOptions, context: int) -> Generation:
    sequence = model.new_sequence(context_length=context, exact=options.exact)
    sequence.append(token_ids)
    return Generation.join(list(stream(model, sequence, options)))


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("ab ", min_size=1, max_size=40), min_size=3, max_size=9),
    context=st.integers(60, 120),
    system=st.sampled_from([None, "Be brief."]),
    new_tokens=st.integers(1, 200),
    least=st.integers(0, 3),
    is_template=st.booleans(),
)
def test_a_talk_of_any_length_goes_on(
    tiny: Model,
    texts: list[str],
    context: int,
    system: str | None,
    new_tokens: int,
    least: int,
    is_template: bool,
) -> None:
    """What is kept: the system prompt and the last turns; an answer is that of a fresh model which reads those."""
    model = with_template(tiny) if is_template else tiny
    sampling = replace(in_digits(tiny), min_new_tokens=min(least, new_tokens))
    options = GenerationOptions(max_new_tokens=new_tokens, sampling=sampling, decode="plain")
    conversation = Conversation(model, system=system, context_length=context)
    said: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        dropped = conversation.num_dropped
        answer = say(conversation, text, options)
        said += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.text}]
        start = [{"role": "system", "content": system}] if system else []
        turns = conversation.messages[len(start) :]
        assert conversation.messages[: len(start)] == start and turns == said[-len(turns) :]
        assert conversation.num_dropped == number + 1 - len(turns) // 2
        prompt = prompt_of(model, conversation.messages[:-1])
        assert conversation.token_ids == [*prompt, *answer.token_ids] and len(conversation.token_ids) <= context
        wanted = fresh_answer(
            model, prompt, replace(options, max_new_tokens=min(new_tokens, context - len(prompt))), context
        )
        assert (answer.token_ids, answer.finish_reason) == (wanted.token_ids, wanted.finish_reason)
        if conversation.num_dropped > dropped:  # half is free, or nothing more than this turn and the last could leave
            assert 2 * len(prompt) <= context or len(turns) <= 4


def test_turns_leave_in_numbers_and_not_at_every_turn(chat_model: Model, fed: list[tuple[int, ...]]) -> None:
    options = GenerationOptions(max_new_tokens=8, sampling=in_digits(chat_model), decode="plain")
    conversation = Conversation(chat_model, system="Be brief.", context_length=200)
    num_dropped, num_read = [], []
    for number in range(24):
        fed.clear()
        say(conversation, f"message {number}", options)
        num_dropped.append(conversation.num_dropped)
        num_read.append(fed[0][1])
    drops = [turn for turn in range(1, 24) if num_dropped[turn] > num_dropped[turn - 1]]
    assert 2 <= len(drops) <= 8 and all(later - earlier > 1 for earlier, later in pairwise(drops))
    start = len(prompt_of(chat_model, [{"role": "system", "content": "Be brief."}])) - len("<s>assistant: ")
    for turn, length in enumerate(num_read[1:], start=1):
        # Rows before the turns that left stay; between drops only what is new is read.
        assert length <= (100 - start + 20 if turn in drops else 60), (turn, length)


@pytest.mark.parametrize(
    "decode", ["plain", "auto", "ngram", "suffix,recycle", "model", "async-model", "tree", "staged"]
)
def test_a_talk_goes_on_with_every_method_and_a_small_model_of_less_context(
    tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, decode: str
) -> None:
    small = make_bundle(make_checkpoint(num_hidden_layers=1, initializer_range=0.5, max_position_embeddings=64))
    model = with_template(Model.open(tiny.bundle.path, draft_model=small))
    options = GenerationOptions(max_new_tokens=12, decode=decode)
    conversation = Conversation(model, context_length=120)
    for number in range(8):
        answer = say(conversation, f"message {number}", options)
        prompt = prompt_of(model, conversation.messages[:-1])
        wanted = fresh_answer(model, prompt, replace(options, decode="plain"), 120)
        assert answer.token_ids == wanted.token_ids
    assert conversation.num_dropped > 0


@pytest.mark.parametrize(("decode", "dial"), [("big-little", 5.0), ("switch", 20.0), ("cascade", 0.0)])
def test_a_talk_goes_on_where_a_small_model_writes(
    tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, decode: str, dial: float
) -> None:
    small = make_bundle(make_checkpoint(num_hidden_layers=1, initializer_range=0.5, max_position_embeddings=64))
    model = with_template(Model.open(tiny.bundle.path, draft_model=small))
    conversation = Conversation(model, context_length=120)
    for number in range(6):
        say(conversation, f"message {number}", GenerationOptions(max_new_tokens=12, decode=decode, dial=dial))
    assert conversation.num_dropped > 0


def test_an_exact_talk_goes_on(chat_model: Model) -> None:
    options = GenerationOptions(max_new_tokens=30, sampling=in_digits(chat_model), exact=True)
    conversation = LanguageModel(chat_model).chat(exact=True, context_length=90)
    for number in range(6):
        answer = say(conversation, f"message {number}", options)
        prompt = prompt_of(chat_model, conversation.messages[:-1])
        limited = replace(options, max_new_tokens=min(30, 89 - len(prompt)), decode="plain")
        assert answer.token_ids == fresh_answer(chat_model, prompt, limited, 90).token_ids
    assert conversation.num_dropped > 0


def test_an_answer_that_meets_the_end_of_the_context_is_cut_and_the_next_turn_goes_on(chat_model: Model) -> None:
    options = GenerationOptions(max_new_tokens=1000, sampling=in_digits(chat_model), decode="plain")
    conversation = Conversation(chat_model, context_length=80)
    answer = say(conversation, "Hello", options)
    assert answer.finish_reason == "length" and len(conversation.token_ids) == 80
    again = say(conversation, "Hello", options)
    assert again.finish_reason == "length" and conversation.num_dropped == 1


def test_a_message_that_is_longer_than_the_context_is_refused_and_the_talk_is_kept(
    chat_model: Model, fed: list[tuple[int, ...]]
) -> None:
    options = GenerationOptions(max_new_tokens=4, sampling=in_digits(chat_model), decode="plain")
    conversation = Conversation(chat_model, system="Be brief.", context_length=100)
    say(conversation, "Hello", options)
    messages, token_ids = list(conversation.messages), conversation.token_ids
    fed.clear()
    with pytest.raises(CacheFull, match=r"the message .* \d+ tokens .* 100; shorten it, or raise --context up to 256"):
        conversation.stream("long " * 40, options)
    assert (conversation.messages, conversation.token_ids, fed) == (messages, token_ids, [])
    whole = Conversation(chat_model)
    with pytest.raises(CacheFull, match=r"256; shorten it$"):
        whole.stream("long " * 90, options)
    assert say(conversation, "Bye", options).text and conversation.num_dropped == 0


def test_a_talk_may_stop_where_it_is_full(chat_model: Model) -> None:
    options = GenerationOptions(max_new_tokens=1000, sampling=in_digits(chat_model), decode="plain")
    conversation = LanguageModel(chat_model).chat(context_length=80, on_full="stop")
    say(conversation, "Hello", options)
    messages = list(conversation.messages)
    with pytest.raises(CacheFull, match="the context of 80 tokens is full; raise --context, begin a new talk, or let"):
        conversation.stream("Hello", options)
    assert conversation.messages == messages


def test_another_word_for_what_a_full_talk_does_is_refused(chat_model: Model) -> None:
    with pytest.raises(ConfigError, match="on_full must be drop or stop, got 'shift'"):
        LanguageModel(chat_model).chat(on_full="shift")  # type: ignore[arg-type]


# The command line


@pytest.fixture(scope="module")
def bundle(tiny: Model) -> Path:
    return tiny.bundle.path


def run(cli: CommandLine, bundle: Path, *options: object, lines: list[str]) -> Any:
    stdin = "".join(f"{line}\n" for line in lines)
    return cli("chat", bundle, "--context", 60, "-n", 8, "--temperature", 0, *options, stdin=stdin)


def test_a_chat_goes_on_when_its_context_is_full_and_says_so_once(cli: CommandLine, bundle: Path) -> None:
    outcome = run(cli, bundle, lines=["hello there"] * 12)
    assert outcome.code == 0 and outcome.err.count("tokens at") == 12
    assert outcome.err.count("the context of 60 tokens is full: the oldest turns leave") == 1


def test_a_chat_refuses_a_message_that_is_too_long_and_goes_on(cli: CommandLine, bundle: Path) -> None:
    outcome = run(cli, bundle, lines=["hello", "much too long " * 20, "and you?"])
    assert outcome.code == 0 and outcome.err.count("tokens at") == 2
    assert outcome.err.count("shorten it, or raise --context up to 256") == 1


def test_a_chat_may_stop_when_its_context_is_full(cli: CommandLine, bundle: Path) -> None:
    outcome = run(cli, bundle, "--on-full", "stop", lines=["hello there"] * 12)
    assert outcome.code == 2 and 1 < outcome.err.count("tokens at") < 12
    assert "skipstone: the context of 60 tokens is full" in outcome.err

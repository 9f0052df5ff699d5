"""The prompt format of every family: our templates give what transformers makes of them, and errors name their line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.text import ChatTemplate

TEMPLATES = Path(__file__).parents[2] / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# The template of each family, and what it makes of one question; ... stands for what depends on the day.
FAMILIES = {
    "llama 3": ("llama_3", "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral": ("mistral", "<s>[INST] Hello[/INST]"),
    "mixtral": ("mixtral", "<s> [INST] Hello [/INST]"),
    "qwen 2": ("qwen2", "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    "qwen 3": ("qwen3", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    "qwen 3 moe": ("qwen3", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    "gemma 2": ("gemma_2", "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"),
    "gemma 3": ("gemma_3", "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"),
    "gemma 3n": ("gemma_3n", "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"),
    "phi 3": ("phi_3", "<|user|>\nHello<|end|>\n<|assistant|>\n"),
    "phi 4 mini": ("phi_4_mini", "<|user|>Hello<|end|><|assistant|>"),
    "smollm 3": ("smollm3", "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    "granite": ("granite", "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hello<|end_of_text|>\n"
                "<|start_of_role|>assistant<|end_of_role|>"),
    "olmo 2": ("olmo_2", "<s><|user|>\nHello\n<|assistant|>\n"),
    "olmoe": ("olmo_2", "<s><|user|>\nHello\n<|assistant|>\n"),
    "stablelm": ("stablelm", "<|user|>\nHello</s>\n<|assistant|>\n"),
    "falcon": ("falcon", "User: Hello\nAssistant:"),
}  # fmt: skip
FILES = sorted({file for file, _ in FAMILIES.values()})
# a system line is there, and before it what a family says of itself
WITH_A_HEAD = {"llama_3", "qwen2", "smollm3", "granite"}

HELLO = [{"role": "user", "content": "Hello"}]
SYSTEM = {"role": "system", "content": " Be brief.\n"}
CALL = {"type": "function", "id": "abcdef123", "function": {"name": "weather", "arguments": {"city": "Zürich", "n": 2}}}
CALLED = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "rain & <b>wind</b>", "tool_call_id": "abcdef123"},
]
TALKS: dict[str, list[dict[str, Any]]] = {
    "a question": HELLO,
    "a system line": [SYSTEM, *HELLO],
    "turns": [*HELLO, {"role": "assistant", "content": "Hi!\n"}, {"role": "user", "content": " \n And you?  "}],
    "turns under a system line": [SYSTEM, *HELLO, {"role": "assistant", "content": " Fine."}, *HELLO],
    "an answer at the end": [*HELLO, {"role": "assistant", "content": "Hi."}],
    "a call": CALLED[:2],
    "a call and its result": CALLED,
    "a call, its result, and the answer": [*CALLED, {"role": "assistant", "content": "It rains."}],
    "two calls at once": [
        CALLED[0],
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]},
        *[CALLED[2]] * 2,
    ],
    "a call without content": [CALLED[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, CALLED[2]],
    "no calls": [*HELLO, {"role": "assistant", "content": "Hi.", "tool_calls": None}, *HELLO],
    "a thought": [*HELLO, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHi."}, *HELLO],
    "a thought apart": [*HELLO, {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm."}],
    "a thought by another name": [*HELLO, {"role": "assistant", "content": "Hi.", "reasoning": "Hm."}],
    "a thought before a call": [CALLED[0], CALLED[1] | {"thinking": "\nHm.\n"}, CALLED[2]],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " Look "}, {"type": "image"}, {"type": "audio"}]}],
    "two questions": HELLO * 2,
    "an answer first": [{"role": "assistant", "content": "Hi."}],
    "a role of its own": [{"role": "critic", "content": "No."}, *HELLO],
    "a result alone": CALLED[2:],
    "a system line alone": [SYSTEM],
    "other letters": [{"role": "user", "content": "e\u0301 👩\u200d🚒 \u2028 <s> {{ 7 * 7 }} \"'&"}],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of <Ort> & day, \"today\"",
            "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}},
            "return": {"type": "string"},
        },
    },
    {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object"}}},
]  # fmt: skip
VARIABLES: list[dict[str, Any]] = [
    {"enable_thinking": False},
    {"enable_thinking": True, "thinking": True},
    {"date_string": "1 Apr 2025"},
    {"tools_in_user_message": False},
    {"documents": [{"doc_id": 1, "title": "One", "text": "First."}]},
    {"controls": {"length": "short", "citations": True}},
    {"python_tools": ["def one(): ..."], "xml_tools": ["two"]},
    {"bos_token": "<x>", "eos_token": ""},
]


def source(file: str) -> str:
    return (TEMPLATES / f"{file}.jinja").read_text(encoding="utf-8")


@cache
def ours(file: str) -> ChatTemplate:
    return ChatTemplate(source(file), special_tokens=TOKENS)


@cache
def theirs(file: str) -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=source(file), **TOKENS)


def assert_same(file: str, messages: list[dict[str, Any]], **options: Any) -> None:
    """Both render the same prompt, or both refuse with the same words."""
    try:
        wanted = theirs(file).apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:
        with pytest.raises(ConfigError, match=r"^chat template, line \d+: ") as caught:
            ours(file).render(messages, **options)
        assert " ".join(str(error).split()) in str(caught.value)
    else:
        assert ours(file).render(messages, **options) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_put_as_the_family_was_trained(family: str) -> None:
    file, prompt = FAMILIES[family]
    text = ours(file).render(HELLO)
    assert text.endswith(prompt) if file in WITH_A_HEAD else text == prompt


@pytest.mark.parametrize("tools", [None, TOOLS, []], ids=["no tools", "tools", "empty tools"])
@pytest.mark.parametrize("file", FILES)
def test_the_prompt_is_that_of_transformers(file: str, tools: list[dict[str, Any]] | None) -> None:
    for messages in TALKS.values():
        for add_generation_prompt in (True, False):
            assert_same(file, messages, tools=tools, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("file", FILES)
def test_variables_reach_the_template_as_in_transformers(file: str, tools: list[dict[str, Any]] | None) -> None:
    for variables in VARIABLES:
        for talk in ("a system line", "a call and its result"):
            assert_same(file, TALKS[talk], tools=tools, add_generation_prompt=True, **variables)


@pytest.mark.parametrize("file", FILES)
@given(contents=st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_any_words_are_rendered_as_transformers_renders_them(file: str, contents: list[str]) -> None:
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]
    assert_same(file, messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    "text",
    [
        "{% generation %}{% set x = 1 %}in{% endgeneration %}{{ x }}",
        "{% for m in messages %}\n  {%- generation %}\n  {{ loop.index0 }}\n  {%- endgeneration %}\n{% endfor %}",
        "{{ documents is defined }} {{ documents is none }} {{ tools is defined }} {{ tools is none }}",
        "{{ messages[0] | tojson }} {{ messages[0] | tojson(indent=1, sort_keys=true) }}",
        "{{ {'é': 1.0, 'b': none, 'a': [true]} | tojson(ensure_ascii=true, separators=(',', ':')) }}",
        "{{ messages[0].items() | list }} {{ messages[0]['missing'] }} {{ messages[0].missing is defined }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "{{ unk_token is defined }}{{ pad_token }}{{ bos_token }}{{ add_generation_prompt }}",
        "{{ dict(a=1) }}{{ messages | length }}{{ 'a,b'.split(',')[1:] }}{{ messages[::-1][0].content }}",
        "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}",
    ],
)
def test_what_templates_rest_on_is_as_in_transformers(text: str) -> None:
    messages = [{"role": "user", "content": "Hellö <&>", "reasoning": "hm", "name": None}, *HELLO]
    backend = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    wanted = PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS).apply_chat_template(
        messages, chat_template=text, tokenize=False
    )
    assert ChatTemplate(text, special_tokens=TOKENS).render(messages, add_generation_prompt=False) == wanted


# Errors


@pytest.mark.parametrize(
    ("file", "messages", "message"),
    [
        ("gemma_2", [SYSTEM, *HELLO], "System role not supported"),
        ("gemma_2", HELLO * 2, "Conversation roles must alternate"),
        ("gemma_3", [{"role": "user", "content": 3}], "Content is neither a text nor a list"),
        ("gemma_3n", HELLO * 2, "Conversation roles must alternate"),
        ("mistral", [CALLED[0], {"role": "assistant", "tool_calls": [CALL | {"id": "1"}]}], "Tool call IDs should"),
        ("llama_3", TALKS["two calls at once"], "Only one tool call at a time"),
    ],
)
def test_a_refusal_names_the_line_it_stands_on(file: str, messages: list[dict[str, Any]], message: str) -> None:
    lines = [number for number, line in enumerate(source(file).split("\n"), start=1) if message in line]
    with pytest.raises(ConfigError, match=message) as caught:
        ours(file).render(messages)
    assert str(caught.value).startswith(f"chat template, line {lines[0]}: ")


FRAME = """\
{%- macro outer(message) %}
    {%- for part in message.parts or [1] %}
        {%- if part %}
            BROKEN
        {%- endif %}
    {%- endfor %}
{%- endmacro %}
{%- for message in messages %}
    {%- set ns = namespace(text=outer(message)) %}
    {%- generation %}
        {{- ns.text }}
        SECOND
    {%- endgeneration %}
{%- endfor %}
"""


@pytest.mark.parametrize("place", ["BROKEN", "SECOND"])
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("{{ raise_exception('No ' ~ message.role) }}", "No user"),
        ("{{ message.missing.name }}", "has no attribute 'missing'"),
        ("{{ unknown.name }}", "'unknown' is undefined"),
        ("{%- set x = message.content + 1 %}", "TypeError: can only concatenate str"),
        ("{{ {}[message.role].first }}", "has no attribute 'user'"),
        ("{{ [1, 2][9].x }}", "has no element 9"),
        ("{{ strftime_now() }}", "TypeError: .*strftime_now"),
        ("{{ message | tojson(indent=[]) }}", "TypeError"),
        ("{%- for a, b in [1] %}{% endfor %}", "TypeError: cannot unpack"),
        ("{{ message. }}", "expected name or number"),
        ("{{ message | no_filter }}", "No filter named 'no_filter'"),
        ("{%- no_tag %}", "unknown tag 'no_tag'"),
    ],
)
def test_an_error_deep_inside_names_its_line(place: str, statement: str, message: str) -> None:
    text = FRAME.replace(place, statement).replace("BROKEN", "").replace("SECOND", "")
    line = FRAME.split(place)[0].count("\n") + 1
    with pytest.raises(ConfigError, match=f"^chat template, line {line}: .*{message}"):
        ChatTemplate(text).render(HELLO)


def test_a_block_left_open_names_the_line_that_closes_another() -> None:
    with pytest.raises(ConfigError, match=r"^chat template, line 6: .*'endfor'.* needs to be closed is 'if'"):
        ChatTemplate(FRAME.replace("BROKEN", "{%- if part %}")).render(HELLO)


def test_an_endless_template_stack_is_an_error_and_no_crash() -> None:
    with pytest.raises(ConfigError, match=r"^chat template, line 1: it calls itself too deeply"):
        ChatTemplate("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}").render(HELLO)


# Several templates


def write(folder: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


NAMED = {"default": "plain {{ bos_token }}", "tool_use": "tools {{ tools | length }}", "rag": "documents"}
LISTED = {"chat_template": [{"name": name, "template": text} for name, text in NAMED.items()], **TOKENS}
LAYOUTS: dict[str, dict[str, object]] = {
    "a list in the settings": {"tokenizer_config.json": LISTED},
    "a folder": {
        "tokenizer_config.json": TOKENS,
        "chat_template.jinja": NAMED["default"],
        "additional_chat_templates/tool_use.jinja": NAMED["tool_use"],
        "additional_chat_templates/rag.jinja": NAMED["rag"],
    },
    "a bundle": {
        "tokenizer_config.json": TOKENS,
        "chat_template.jinja": NAMED["default"],
        "chat_template_tool_use.jinja": NAMED["tool_use"],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_with_tools_takes_the_template_for_tools(tmp_path: Path, layout: str) -> None:
    template = ChatTemplate.load(write(tmp_path, LAYOUTS[layout]))
    assert template is not None
    assert template.render(HELLO) == "plain <s>"
    assert template.render(HELLO, tools=TOOLS) == "tools 2"
    assert template.render(HELLO, tools=[]) == "tools 0"


@pytest.mark.parametrize("layout", ["a list in the settings", "a folder"])
def test_transformers_takes_the_same_template_for_tools(tmp_path: Path, layout: str) -> None:
    tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, LAYOUTS[layout])
    tokenizer, template = AutoTokenizer.from_pretrained(tmp_path), ChatTemplate.load(tmp_path)
    assert template is not None
    for tools in (None, TOOLS, []):
        wanted = tokenizer.apply_chat_template(HELLO, tools=tools, tokenize=False, add_generation_prompt=True)
        assert template.render(HELLO, tools=tools) == wanted


def test_template_files_go_before_the_list_of_the_settings(tmp_path: Path) -> None:
    template = ChatTemplate.load(write(tmp_path, {"tokenizer_config.json": LISTED, "chat_template.jinja": "file"}))
    assert template is not None
    assert template.render(HELLO, tools=TOOLS) == "file"


def test_only_a_template_for_tools_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"additional_chat_templates/tool_use.jinja": "tools"})
    with pytest.raises(BundleError, match='holds the chat templates tool_use, but none named "default"'):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    "entry", [{"name": "default"}, {"name": "default", "template": None}, {"name": 1, "template": ""}]
)
def test_a_list_that_is_no_list_of_templates_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    write(tmp_path, {"tokenizer_config.json": {"chat_template": [entry]}})
    with pytest.raises(BundleError, match="neither a string nor a list of named templates"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_a_model_that_was_never_taught_to_chat_has_no_template(tmp_path: Path, model_type: str) -> None:
    write(tmp_path, {"config.json": {"model_type": model_type}, "tokenizer_config.json": TOKENS})
    assert ChatTemplate.load(tmp_path) is None

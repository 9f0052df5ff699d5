"""Chat templates: the prompts of well-known styles, clear errors, and no way out of the sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.text import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hello "},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye"},
]

CHATML = """\
{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA_3 = """\
{%- set loop_messages = messages %}
{%- for message in loop_messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}
    {%- set content = content + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

TOOLS = """\
{%- if tools is defined and tools %}
    {{- '<tools>\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- '\\n' }}
    {%- endfor %}
    {{- '</tools>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {{- '<call>' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson ~ '</call>' }}
        {%- endfor %}
        {%- continue %}
    {%- endif %}
    {{- message.role ~ ': ' ~ message.content ~ '\\n' }}
{%- endfor %}
"""

WEATHER = {"name": "weather", "description": "Wetter für <Ort> & Tag", "parameters": {"type": "object", "a": 1}}


def render(source: str, **special_tokens: str) -> str:
    return ChatTemplate(source, special_tokens=special_tokens).render(HELLO)


def write(folder: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def test_chatml() -> None:
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hello <|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ChatTemplate(CHATML).render(TALK) == expected


def test_without_generation_prompt_the_text_ends_with_the_last_message() -> None:
    assert ChatTemplate(CHATML).render(HELLO, add_generation_prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


def test_llama_3() -> None:
    template = ChatTemplate(LLAMA_3, special_tokens={"bos_token": "<|begin_of_text|>"})
    expected = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert template.render(TALK[:2]) == expected


def test_mistral() -> None:
    template = ChatTemplate(MISTRAL, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
    assert template.render(TALK[1:]) == "<s>[INST]  Hello  [/INST] Hi.</s>[INST] Bye [/INST]"


def test_tools_are_written_as_json_in_their_own_order_and_letters() -> None:
    call = {"function": {"name": "weather", "arguments": {"b": "Zürich", "a": [1]}}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    expected = (
        '<tools>\n{"name": "weather", "description": "Wetter für <Ort> & Tag", '
        '"parameters": {"type": "object", "a": 1}}\n</tools>\n'
        'user: Hello\n<call>weather {"b": "Zürich", "a": [1]}</call>'
    )
    assert ChatTemplate(TOOLS).render(messages, tools=[WEATHER]) == expected


def test_without_tools_a_template_for_tools_leaves_them_out() -> None:
    assert ChatTemplate(TOOLS).render(HELLO) == "user: Hello\n"


def test_json_can_be_indented() -> None:
    assert render("{{ {'b': 1, 'a': 'é'} | tojson(indent=2) }}") == '{\n  "b": 1,\n  "a": "é"\n}'


def test_variables_reach_the_template() -> None:
    template = ChatTemplate("{{ 'on' if enable_thinking else 'off' }}")
    assert template.render(HELLO, enable_thinking=True) == "on"
    assert template.render(HELLO) == "off"


def test_a_variable_goes_before_a_special_token_of_the_same_name() -> None:
    template = ChatTemplate("{{ bos_token }}", special_tokens={"bos_token": "<s>"})
    assert template.render(HELLO, bos_token="<x>") == "<x>"


def test_a_template_knows_the_date() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year - 1), str(datetime.now().year)}


def test_the_mark_for_generated_words_only_shows_them() -> None:
    assert render("a{% generation %}b{{ messages[0].content }}{% endgeneration %}c") == "abHelloc"


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("a\n{{ raise_exception('No system role') }}", 2, "No system role"),
        ("a\nb\n{{ messages[0].name.first }}", 3, "has no attribute 'name'"),
        ("a\n{% if %}", 2, "Expected an expression"),
        ("{% for m in messages %}\na", 2, "end of template"),
        ("a\n\n{{ 'a' + 1 }}", 3, "TypeError"),
        ("{% macro f() %}\n{{ 1 // 0 }}{% endmacro %}\n{{ f() }}", 2, "ZeroDivisionError"),
        ("a\n{% include 'other' %}", 2, "no loader"),
        ("a\n{{ nothing | unknown }}", 2, "unknown"),
    ],
)
def test_an_error_in_a_template_names_its_line(source: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^chat template, line {line}: .*{message}"):
        render(source)


def test_roles_that_a_template_refuses_give_its_own_message() -> None:
    with pytest.raises(ConfigError, match=r"line 4: Roles must alternate"):
        ChatTemplate(MISTRAL).render(TALK)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__",
        "''['__class__']['__mro__']",
        "''.__class__.__mro__[1].__subclasses__()",
        "raise_exception.__globals__['json']",
        "messages.append({'role': 'user'})",
        "messages[0].update(role='system')",
        "messages[0].content.__class__.__base__",
        "('{0.__class__.__mro__}').format('')",
        "(''|attr('__class__')).__mro__",
        "cycler.__init__.__globals__.os.popen('true').read()",
    ],
)
def test_a_template_cannot_leave_the_sandbox(expression: str) -> None:
    messages = [dict(message) for message in HELLO]
    with pytest.raises(ConfigError, match=r"^chat template, line 1: "):
        ChatTemplate(f"{{{{ {expression} }}}}").render(messages)
    assert messages == HELLO


def test_a_folder_without_a_template_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>", "chat_template": None})
    assert ChatTemplate.load(tmp_path) is None


def rendered_from(folder: Path, messages: Sequence[dict[str, str]] = HELLO) -> str:
    template = ChatTemplate.load(folder)
    assert template is not None
    return template.render(messages)


def test_the_template_file_goes_before_the_one_in_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": "configuration"})
    assert rendered_from(tmp_path) == "configuration"
    write(tmp_path, "chat_template.jinja", "file é")
    assert rendered_from(tmp_path) == "file é"


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert rendered_from(tmp_path) == "plain"


def test_special_tokens_come_from_both_files_and_the_configuration_wins(tmp_path: Path) -> None:
    write(tmp_path, "chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ add_bos_token }}")
    write(tmp_path, "special_tokens_map.json", {"bos_token": "<old>", "eos_token": {"content": "</s>"}})
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "pad_token": None, "add_bos_token": True}
    write(tmp_path, "tokenizer_config.json", config)
    assert rendered_from(tmp_path) == "<s></s>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"chat_template": [{"name": "tool_use", "template": "x"}]}', 'named "default"'),
        ('{"chat_template": 3}', "neither a string nor a list"),
    ],
)
def test_a_damaged_configuration_says_what_to_do(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, "tokenizer_config.json", content)
    with pytest.raises(BundleError, match=message):
        ChatTemplate.load(tmp_path)


def test_a_template_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"chat_template\.jinja cannot be read"):
        ChatTemplate.load(tmp_path)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (MISTRAL, "</s>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", ""),
        ("{{ raise_exception('never') }}", ""),
        ("{% for m in messages %}{{ m.content[0]['text'] + '<end>' }}{% endfor %}", "<end>"),
    ],
    ids=["chatml", "mistral", "lines", "never", "parts"],
)
def test_the_end_of_a_turn_is_what_the_template_writes_behind_an_answer(template: str, end: str) -> None:
    assert ChatTemplate(template, special_tokens={"bos_token": "<s>", "eos_token": "</s>"}).turn_end() == end

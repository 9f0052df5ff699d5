"""A conversation to the text that a model was trained on, by the chat template of its checkpoint."""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.text.limited_sandbox import LimitedSandbox
from skipstone.runtime.text.template_budget import TemplateBudget

__all__ = ["ChatTemplate"]

_TEMPLATE_FILE: Final = "<template>"  # what jinja calls a template that was given as a string
MOST_TOLD: Final = 500  # characters of what a template says in an error
_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
_TOKEN_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json")
# A bundle has no folders of text files, a checkpoint has one.
_TEMPLATE_FILES: Final = {
    "default": ("chat_template.jinja",),
    "tool_use": ("chat_template_tool_use.jinja", "additional_chat_templates/tool_use.jinja"),
}


class ChatTemplate:
    """A Jinja chat template that runs in a sandbox: it sees messages, tools and variables, and can change nothing.

    A checkpoint may bring a second template for prompts with tools (`tool_use`). Any failure in the template raises
    ConfigError with its line number and message, and so does one that would take too long or too much memory.
    """

    def __init__(
        self, source: str, *, tool_use: str | None = None, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self._special_tokens, self._source = dict(special_tokens or {}), f"{source} {tool_use or ''}"
        self._sources = {False: source, True: source if tool_use is None else tool_use}
        self._environment = _environment()
        self._compiled: dict[str, Template] = {}

    @classmethod
    def load(cls, folder: Path, *, only: Collection[str] | None = None) -> ChatTemplate | None:
        """The template of a bundle or checkpoint, with its special tokens; None when it has none.

        Files with a template go before the `chat_template` of `tokenizer_config.json`. Of them all only those in
        `only`, where it is given, are read. Raises BundleError for files that cannot be read.
        """
        names = (*_TOKEN_FILES, *(name for names in _TEMPLATE_FILES.values() for name in names))
        names = tuple(name for name in names if only is None or name in only)
        texts = {name: _read_text(folder / name) for name in names if (folder / name).is_file()}
        return cls.of_texts(texts, folder=folder)

    @classmethod
    def of_texts(cls, texts: Mapping[str, str], *, folder: Path) -> ChatTemplate | None:
        """The template in the files of a bundle or checkpoint, by name; `folder` is for errors. Else as `load`."""
        config, tokens_map = (_json_object(texts, name, folder) for name in _TOKEN_FILES)
        named = _template_files(texts) or _configured_templates(config, folder)
        if not named:
            return None
        if "default" not in named:
            raise BundleError(
                f'{folder} holds the chat templates {", ".join(sorted(named))}, but none named "default"; put the one '
                "to use in chat_template.jinja"
            )
        tokens = _special_tokens(tokens_map) | _special_tokens(config)
        return cls(named["default"], tool_use=named.get("tool_use"), special_tokens=tokens)

    def turn_end(self) -> str:
        """What the template writes behind an answer, without white space around it; empty where it writes nothing.

        Empty as well for a template that cannot show a question and its answer.
        """
        answer = "0f7aanswer9c2e"
        for content in ("question", [{"type": "text", "text": "question"}]):  # templates for pictures want the second
            reply = answer if isinstance(content, str) else [{"type": "text", "text": answer}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": reply}]
            try:
                text = self.render(messages, add_generation_prompt=False)
            except ConfigError:
                continue
            before, _, behind = text.rpartition(answer)
            if before:
                return behind.strip()
        return ""

    def names_role(self, role: str) -> bool:
        """Whether the template says something of a role by its name, as some do beside the usual ones."""
        return f"'{role}'" in self._source or f'"{role}"' in self._source

    @cached_property
    def wants_parts(self) -> bool:
        """Whether a content must be a list of parts, as templates for pictures want: as a string it is not shown."""
        question = "0f7aquestion9c2e"
        shown = [self._shows(question, content) for content in (question, [{"type": "text", "text": question}])]
        return shown == [False, True]

    def _shows(self, question: str, content: str | list[dict[str, str]]) -> bool:
        try:
            return question in self.render([{"role": "user", "content": content}])
        except ConfigError:
            return False

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: object,
    ) -> str:
        """The prompt for `messages`, special tokens included: encode it with `add_special_tokens=False`.

        `variables` are what this template knows besides, such as `enable_thinking`; they go before special tokens.
        """
        shown = [_as_templates_expect(message) for message in messages]
        given = {"messages": shown, "tools": tools, "add_generation_prompt": add_generation_prompt}
        known = {"documents": None} | self._special_tokens | variables | given
        try:
            template = self._template(self._sources[tools is not None])
            return self._environment.within(TemplateBudget(known), lambda: template.render(known))
        except Exception as error:  # a template can raise whatever Python can: TypeError, KeyError, RecursionError
            raise _template_error(error) from error

    def _template(self, source: str) -> Template:
        """Return a source compiled, which is done when it is first needed: many models are never chatted with."""
        if source not in self._compiled:
            self._compiled[source] = self._environment.from_string(source)
        return self._compiled[source]


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; when prompting it only shows them."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _as_templates_expect(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without fields that are None, and with its reasoning under the names that templates read.

    Templates write a None as text; and what is `reasoning_content` to most is `thinking` to some.
    """
    fields = {name: value for name, value in message.items() if value is not None}
    for name in _REASONING:
        if name in fields:
            return {"thinking": fields[name], **fields, "reasoning_content": fields[name]}
    return fields


def _environment() -> LimitedSandbox:
    """The environment that templates on the Hugging Face hub are written for."""
    environment = LimitedSandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.finish()


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; jinja's own filter would escape `<`, `>`, `&` and sort the keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _template_error(error: Exception) -> ConfigError:
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == _TEMPLATE_FILE]
    if isinstance(error, TemplateSyntaxError):
        lines.append(error.lineno)
    place = f"chat template, line {lines[-1]}" if lines else "chat template"
    message = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    if isinstance(error, RecursionError):
        message = "it calls itself too deeply"
    return ConfigError(f"{place}: {' '.join(str(message)[:MOST_TOLD].split())}")


def _template_files(texts: Mapping[str, str]) -> dict[str, str]:
    return {purpose: texts[name] for purpose, names in _TEMPLATE_FILES.items() for name in names if name in texts}


def _configured_templates(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The `chat_template` field: a string, or a list of named ones; empty without one."""
    field = config.get("chat_template")
    if field is None or isinstance(field, str):
        return {} if field is None else {"default": field}
    try:
        named = {entry["name"]: entry["template"] for entry in field}
    except (TypeError, KeyError):
        named = {"default": None}
    if not all(isinstance(text, str) for text in (*named.keys(), *named.values())):
        raise BundleError(
            f"{folder / 'tokenizer_config.json'}: chat_template is neither a string nor a list of named templates; put "
            "the template in chat_template.jinja"
        )
    return named


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like; each is written as a string or as `{"content": ...}`."""
    tokens = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _json_object(texts: Mapping[str, str], name: str, folder: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is no such file."""
    if name not in texts:
        return {}
    try:
        content = json.loads(texts[name])
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / name} is not valid JSON ({error}); copy it from the checkpoint again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{folder / name} holds no JSON object; copy it from the checkpoint again")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}); copy it from the checkpoint again") from error

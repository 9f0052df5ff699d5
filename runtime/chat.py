"""A conversation to the text that a model was trained on, by the chat template of its checkpoint."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from skipstone.errors import BundleError, ConfigError

__all__ = ["ChatTemplate"]

_TEMPLATE_FILE: Final = "<template>"  # what jinja calls a template that was given as a string


class ChatTemplate:
    """A Jinja chat template that runs in a sandbox: it sees messages, tools and variables, and can change nothing.

    Any failure in the template raises ConfigError with its line number and message.
    """

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] | None = None) -> None:
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise _template_error(error) from error

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate | None:
        """The template of a bundle or checkpoint, with its special tokens; None when it has none.

        `chat_template.jinja` goes before the `chat_template` of `tokenizer_config.json`. Raises BundleError for files
        that cannot be read.
        """
        config = _read_json(folder / "tokenizer_config.json")
        path = folder / "chat_template.jinja"
        source = _read_text(path) if path.is_file() else _configured_template(config, folder)
        if source is None:
            return None
        tokens = _special_tokens(_read_json(folder / "special_tokens_map.json")) | _special_tokens(config)
        return cls(source, special_tokens=tokens)

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
        given = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(self._special_tokens | variables | given)
        except Exception as error:  # a template can raise whatever Python can: TypeError, KeyError, RecursionError
            raise _template_error(error) from error


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; when prompting it only shows them."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that templates on the Hugging Face hub are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


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
    return ConfigError(f"{place}: {' '.join(str(message).split())}")


def _configured_template(config: Mapping[str, Any], folder: Path) -> str | None:
    """The `chat_template` field: a string, or a list of named ones of which "default" is taken."""
    field = config.get("chat_template")
    if field is None or isinstance(field, str):
        return field
    try:
        named: dict[str, str] = {entry["name"]: entry["template"] for entry in field}
        return named["default"]
    except (TypeError, KeyError) as error:
        raise BundleError(
            f"{folder / 'tokenizer_config.json'}: chat_template is neither a string nor a list with a template named "
            '"default"; put the template in chat_template.jinja'
        ) from error


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like; each is written as a string or as `{"content": ...}`."""
    tokens = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); copy it from the checkpoint again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no JSON object; copy it from the checkpoint again")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}); copy it from the checkpoint again") from error

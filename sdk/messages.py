"""Messages of a chat, as programs give them: their shape, and the tokens that a model reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any, Final, TypeAlias

from skipstone.errors import CacheFull, ConfigError
from skipstone.option_types import shown
from skipstone.runtime.engine import Model
from skipstone.runtime.text import ChatTemplate, require_text

__all__ = ["Message", "checked_messages", "encode_messages", "require_fitting", "written_end"]

Message: TypeAlias = dict[str, Any]
"""What stands in a list of messages: a `role`, a `content`, and what the model's template knows besides."""

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
ASKING: Final = ("user", "tool")
SHAPE: Final = '[{"role": "user", "content": "..."}]'
LEAST_END: Final = 3  # letters: a template may write a single quote or a full stop behind an answer


def checked_messages(messages: object, template: ChatTemplate | None = None) -> list[Message]:
    """Return copies of messages that ask for an answer, each content as one string.

    Content may be a list of parts `{"type": "text", "text": ...}`, which are joined; of an assistant that calls tools
    it may be missing. The last message must be of the `user` or of a `tool`. Other roles than the usual ones are those
    that the `template` names. What else stands in a message goes to it as it is.
    Raises: ConfigError for any other shape, TextError for what is no text.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, SequenceOf):
        raise ConfigError(f"messages must be a list such as {SHAPE}, got {shown(messages)}")
    if not messages:
        raise ConfigError(f"the list of messages is empty; give at least one, such as {SHAPE}")
    checked = [_checked(message, f"messages[{place}]", template) for place, message in enumerate(messages)]
    if (role := checked[-1]["role"]) not in ASKING:
        raise ConfigError(
            f"the last message is the {role}'s, and an answer follows one of the user or of a tool; end with such a one"
        )
    return checked


def _checked(message: object, name: str, template: ChatTemplate | None) -> Message:
    if not isinstance(message, Mapping) or not all(isinstance(key, str) for key in message):
        raise ConfigError(f"{name} must be a mapping of role and content, got {shown(message)}")
    role = message.get("role")
    is_named = isinstance(role, str) and bool(role) and template is not None and template.names_role(role)
    if role not in ROLES and not is_named:
        found = "has no role" if "role" not in message else f"has the role {shown(role)}"
        raise ConfigError(f"{name} {found}; roles are {', '.join(ROLES)}")
    is_call = role == "assistant" and bool(message.get("tool_calls"))
    if message.get("content") is None:
        if not is_call:
            raise ConfigError(f"{name} has no content; give it a string")
        return {**message, "content": ""}
    content = _text_of(message["content"], f"{name}['content']")
    if not content and role in ASKING[:1]:
        raise ConfigError(f"the message {name} is empty; give at least one character")
    require_text(content)
    return {**message, "content": content}


def _text_of(content: object, name: str) -> str:
    """Return a content as one string."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise ConfigError(f"{name} must be a string, got {shown(content)}")
    texts = [_text_of_part(part, f"{name}[{place}]") for place, part in enumerate(content)]
    return "".join(texts)


def _text_of_part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise ConfigError(f'{name} must be a part such as {{"type": "text", "text": "..."}}, got {shown(part)}')
    if part["type"] != "text":
        raise ConfigError(f"{name} is of the type {shown(part['type'])}, and models here read text only; leave it out")
    if not isinstance(part.get("text"), str):
        raise ConfigError(f"{name} has no text; give it a string")
    return str(part["text"])


def encode_messages(model: Model, messages: SequenceOf[Mapping[str, Any]]) -> list[int]:
    """Return the tokens of messages and of what the model's template writes before an answer.

    Without a template they are those of the bare text of all messages. Special tokens that messages spell are text,
    unless the model was loaded to allow them. Raises: ConfigError of the template.
    """
    template, tokenizer = model.chat_template, model.tokenizer
    for message in messages:
        if isinstance(content := message.get("content"), str):
            require_fitting(model, content)
    if template is None:
        return tokenizer.encode("".join(message["content"] for message in messages))
    shown = [_in_parts(message) for message in messages] if template.wants_parts else list(messages)
    marked, mark = (shown, None) if model.allows_special else tokenizer.plain_specials.marked(shown)
    prompt = template.render(marked)
    require_text(prompt)
    if mark is None:
        return tokenizer.encode(prompt, add_special_tokens=False)
    return tokenizer.plain_specials.encode(prompt, mark)


def _in_parts(message: Mapping[str, Any]) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def require_fitting(model: Model, text: str) -> None:
    """Raise CacheFull for a text that has more tokens than the model sees, as its bytes tell, before it is cut."""
    least, most = model.tokenizer.least_tokens(text), model.manifest.context_length
    if least > most:
        raise CacheFull(
            f"the text has {len(text)} characters, at least {least} tokens, and the model sees {most}: shorten it"
        )


def written_end(model: Model) -> tuple[str, ...]:
    """Return how the template ends an answer, as a stop string, where that is text and no token.

    A model trained with `<|im_end|>` that its vocabulary lacks writes it letter by letter.
    """
    template, tokenizer = model.chat_template, model.tokenizer
    end = "" if template is None else template.turn_end().partition("\n")[0].strip()
    if len(end) < LEAST_END:
        return ()
    first = tokenizer.encode(end, add_special_tokens=False)[0]
    is_token = first in tokenizer.special_ids or first in model.manifest.stop_ids
    return () if is_token else (end,)

"""What the JSON files beside a vocabulary say: its added tokens, and what goes around a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.files import optional_json

__all__ = ["TokenizerSettings"]

# in the order in which transformers gives ids to those that have none
_NAMES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SWITCHES: Final = ("add_bos_token", "add_eos_token", "legacy", "add_prefix_space")
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """tokenizer_config.json, special_tokens_map.json and added_tokens.json, read together.

    `placed` are the tokens whose ids the files give; `named` are special tokens by what they are for (`bos_token`),
    those without a purpose by themselves. `switches` are the options of the class that are set.
    """

    tokenizer_class: str | None
    placed: Mapping[int, AddedToken]
    named: Mapping[str, AddedToken]
    switches: Mapping[str, bool]

    @classmethod
    def read(cls, folder: Path) -> TokenizerSettings:
        """The settings in `folder`; files that are not there say nothing. Raises: CheckpointError for damaged files."""
        config, path = optional_json(folder / "tokenizer_config.json"), folder / "tokenizer_config.json"
        named = _named(optional_json(folder / "special_tokens_map.json"), folder / "special_tokens_map.json")
        named |= _named(config, path)
        special = {token.content for token in named.values()}
        if "added_tokens_decoder" in config:
            placed = _decoder_tokens(config["added_tokens_decoder"], special, path)
        else:
            placed = _listed_tokens(optional_json(folder / "added_tokens.json"), named, folder / "added_tokens.json")
        tokenizer_class = config.get("tokenizer_class")
        return cls(
            tokenizer_class=tokenizer_class if isinstance(tokenizer_class, str) else None,
            placed=dict(sorted(placed.items())),
            named=named,
            switches={name: config[name] for name in _SWITCHES if isinstance(config.get(name), bool)},
        )

    def text_of(self, name: str) -> str | None:
        """The token of a purpose, such as `bos_token`; None where the files name none."""
        token = self.named.get(name)
        return None if token is None else token.content


def _named(config: Mapping[str, Any], path: Path) -> dict[str, AddedToken]:
    """The special tokens that a file names. Each is a text, or an object with its flags."""
    named = {name: config[name] for name in _NAMES if config.get(name) is not None}
    tokens = {name: _token(value, path, special=True) for name, value in named.items()}
    for field in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(field) or []
        for value in more.values() if isinstance(more, dict) else _list(more, field, path):
            token = _token(value, path, special=True)
            tokens[token.content] = token
    return tokens


def _list(value: object, field: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{path}: {field} should be a list, found {type(value).__name__}")
    return value


def _token(value: object, path: Path, *, special: bool) -> AddedToken:
    fields = value if isinstance(value, dict) else {"content": value}
    content = fields.get("content")
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{path}: a special or added token should be a text, found {value!r}")
    flags = {name: fields[name] for name in _FLAGS if isinstance(fields.get(name), bool)}
    return AddedToken(content, special=special, **({"normalized": not special} | flags))


def _decoder_tokens(decoder: object, special: set[str], path: Path) -> dict[int, AddedToken]:
    """`added_tokens_decoder`: from ids, written as texts, to tokens with their flags."""
    if not isinstance(decoder, dict):
        raise CheckpointError(f"{path}: added_tokens_decoder should be an object, found {type(decoder).__name__}")
    tokens = {}
    for token_id, value in decoder.items():
        if not token_id.isdecimal() or not isinstance(value, dict):
            raise CheckpointError(f"{path}: added_tokens_decoder should go from ids to objects, found {token_id!r}")
        is_special = value.get("special") is True or value.get("content") in special
        tokens[int(token_id)] = _token(value, path, special=is_special)
    return tokens


def _listed_tokens(ids: Mapping[str, Any], named: Mapping[str, AddedToken], path: Path) -> dict[int, AddedToken]:
    """added_tokens.json: from texts to ids. The special ones among them are those that another file names."""
    special = {token.content: token for token in named.values()}
    for content, token_id in ids.items():
        if type(token_id) is not int or token_id < 0:
            raise CheckpointError(f"{path}: {content!r} should have an id, found {token_id!r}")
    return {token_id: special.get(content) or _token(content, path, special=False) for content, token_id in ids.items()}

"""Which tokens end a text or a turn, by all that a checkpoint says of it; and where each was said.

What a file states is taken as it is, but for tokens that the model has no row for and can never make. A token known
by its text is taken as llama.cpp takes it, where it can be no word of a text: a special token always; one that is only
added where its text looks like no word; a word of the vocabulary only where the chat template writes it. (In GGUF files
such words are special tokens, see `gguf.roles`.)
Source: the names in llama-vocab.cpp of llama.cpp, `special_eog_ids`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import tokenizers

from skipstone.errors import SkipstoneError
from skipstone.exporters.checkpoints.checkpoint import Checkpoint
from skipstone.runtime.text import ChatTemplate

__all__ = ["KNOWN_ENDS", "TEXT_LIKE", "listed", "read_end_tokens"]

TEXT_LIKE: Final = frozenset(
    {"</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<PAD>", "[PAD]", "<REPO>", "<reponame>", "[e~["}
)
"""Names that a text may hold as well, `</s>` in HTML: they are taken of special tokens only."""
_TURNS: Final = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>"),
        *("<|eot|>", "<|END_OF_TURN_TOKEN|>", "<|endofturn|>", "[|endofturn|]", "<|end_of_turn|>"),
        *("<｜end▁of▁sentence｜>", "<|end_of_sentence|>", "<|EOT|>", "<|eos|>"),
    }
)
# What a model writes between files or as filling, which no single text goes on behind.
_FILLING: Final = frozenset(
    {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<|file_sep|>"}
)
KNOWN_ENDS: Final = _TURNS | _FILLING | TEXT_LIKE
_TOKENS: Final = ("eos_token", "eot_token", "eom_token")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of a tokenizer.json that the model has rows for; `size` is the number of rows."""

    size: int
    ids: Mapping[str, int]
    added: frozenset[int]
    special: frozenset[int]

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer, vocab_size: int) -> _Vocabulary:
        ids, added = tokenizer.get_vocab(with_added_tokens=True), tokenizer.get_added_tokens_decoder()
        return cls(
            vocab_size,
            {text: token_id for text, token_id in ids.items() if token_id < vocab_size},
            frozenset(added),
            frozenset(token_id for token_id, token in added.items() if token.special),
        )

    def has_row(self, token_id: object) -> bool:
        return type(token_id) is int and 0 <= token_id < self.size

    def takes(self, name: str, template: str) -> bool:
        """Whether a token of this name ends a text because of its name."""
        token_id = self.ids.get(name)
        if token_id is None or token_id in self.special:
            return token_id is not None
        return name in template or (token_id in self.added and name not in TEXT_LIKE)


def read_end_tokens(
    checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer, *, vocab_size: int
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the ids of the tokens that end a text, those that a file states first, with all places that say so.

    Behind them comes a remark where a file states tokens that the model has no row for; they are left out.
    """
    vocabulary = _Vocabulary.of(tokenizer, vocab_size)
    places: dict[int, list[str]] = {}
    rowless: dict[str, list[str]] = {}
    for token_id, place in (*_stated(checkpoint, vocabulary), *_by_text(checkpoint, vocabulary)):
        if vocabulary.has_row(token_id):
            places.setdefault(token_id, []).append(place)
        else:
            rowless.setdefault(repr(token_id), []).append(place)
    _leave_out_parts(places, vocabulary)
    ends = {token_id: _joined(said) for token_id, said in places.items()}
    return ends, _rowless_remarks(rowless, has_ends=bool(ends))


def _joined(places: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(places))


def _rowless_remarks(rowless: Mapping[str, Iterable[str]], *, has_ends: bool) -> tuple[str, ...]:
    if not rowless:
        return ()
    shown = ", ".join(f"{token} ({_joined(places)})" for token, places in rowless.items())
    then = "" if has_ends else ": none is left, and every answer runs to its limit"
    return (f"end tokens that the model has no row for are left out: {shown}{then}",)


def _stated(checkpoint: Checkpoint, vocabulary: _Vocabulary) -> Iterator[tuple[Any, str]]:
    """The ids that settings give. Beside generation_config.json those of config.json must be of special tokens.

    A config.json may keep what its class has by default, which is a word of another vocabulary.
    """
    if checkpoint.ends is not None:
        yield from checkpoint.ends.items()
        return
    generation = listed(checkpoint.generation_config.get("eos_token_id"))
    yield from ((token_id, "generation_config.json") for token_id in generation)
    has_generation = any(map(vocabulary.has_row, generation))
    for config in (checkpoint.config, checkpoint.config.get("text_config") or {}):
        for token_id in listed(config.get("eos_token_id")):
            if not has_generation or (vocabulary.has_row(token_id) and token_id in vocabulary.special):
                yield token_id, "config.json"


def _by_text(checkpoint: Checkpoint, vocabulary: _Vocabulary) -> Iterator[tuple[int, str]]:
    """The ids of tokens that are named by their text."""
    texts = {name: content.decode("utf-8", "replace") for name, content in checkpoint.texts.items()}
    if checkpoint.ends is None:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            for name in _named_tokens(texts.get(file, "{}")):
                if name in vocabulary.ids:
                    yield vocabulary.ids[name], file
    turn_end = _turn_end(checkpoint, texts)
    added = (name for name, token_id in vocabulary.ids.items() if token_id in vocabulary.added or name in KNOWN_ENDS)
    closing = max((name for name in added if turn_end.startswith(name)), key=len, default=None)
    if closing is not None:
        yield vocabulary.ids[closing], "chat template"
    template = _template_text(texts)
    for name in sorted(KNOWN_ENDS & vocabulary.ids.keys(), key=vocabulary.ids.__getitem__):
        if vocabulary.takes(name, template):
            yield vocabulary.ids[name], "name"


def _leave_out_parts(places: dict[int, list[str]], vocabulary: _Vocabulary) -> None:
    """Drop `<|end|>` where only its name says so and it parts the channels of one answer, as in gpt-oss."""
    names = {name for name in KNOWN_ENDS if vocabulary.ids.get(name) in places}
    token_id = vocabulary.ids.get("<|end|>")
    calls = bool(names & {"<|call|>", "<|calls|>"})
    if token_id is not None and calls and names & {"<|return|>", "<|flush|>"} and places.get(token_id) == ["name"]:
        del places[token_id]


def _named_tokens(text: str) -> Iterator[str]:
    """The texts of the ending tokens that a file of JSON names."""
    try:
        config: Any = json.loads(text)
    except (ValueError, RecursionError):
        return  # a damaged file is named where it is used
    for key in _TOKENS if isinstance(config, dict) else ():
        value = config.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and content:
            yield content


def _turn_end(checkpoint: Checkpoint, texts: Mapping[str, str]) -> str:
    try:
        template = ChatTemplate.of_texts(texts, folder=checkpoint.path)
    except SkipstoneError:
        return ""  # the template is not needed to export; who chats gets the error
    return "" if template is None else template.turn_end()


def _template_text(texts: Mapping[str, str]) -> str:
    """The source of all chat templates."""
    try:
        configured = json.loads(texts.get("tokenizer_config.json", "{}")).get("chat_template") or ""
    except (ValueError, AttributeError, RecursionError):
        configured = ""
    files = (text for name, text in texts.items() if name.endswith(".jinja"))
    return "\n".join((*files, configured if isinstance(configured, str) else json.dumps(configured)))


def listed(value: Any) -> tuple[Any, ...]:
    """Return what a setting gives as a number, a list or nothing: token ids, where the file is right."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)

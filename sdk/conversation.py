"""A chat: turns in, answers out, with the cache kept between turns."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import GenerationOptions, Piece, stream

__all__ = ["Conversation"]

Message = dict[str, str]


class Conversation:
    """Messages so far and the sequence that has seen them. After each turn only the new tokens are computed.

    A model without a chat template, as one that was never taught to chat, is fed the bare text of all turns.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        context_length: int | None = None,
        exact: bool = False,
    ) -> None:
        self._model = model
        self._sequence = model.new_sequence(context_length=context_length, exact=exact)
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the whole text so far, the template's included."""
        return list(self._sequence.token_ids)

    def reply(self, text: str, options: GenerationOptions) -> Iterator[Piece]:
        """Yield the answer to `text` piece by piece. An answer that is cancelled stays, as far as it came.

        Raises: ConfigError, CacheFull before any work; the conversation is then as it was.
        """
        if not text:
            raise ConfigError("the message is empty; give at least one character")
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        self._take_over(self._encode(messages), options.max_new_tokens)
        return self._answer(messages, stream(self._model, self._sequence, options))

    def _answer(self, messages: list[Message], pieces: Iterator[Piece]) -> Iterator[Piece]:
        shown: list[str] = []
        try:
            for piece in pieces:
                shown.append(piece.text)
                yield piece
        finally:
            self.messages = [*messages, {"role": "assistant", "content": "".join(shown)}]

    def _encode(self, messages: SequenceOf[Message]) -> list[int]:
        template, tokenizer = self._model.chat_template, self._model.tokenizer
        if template is None:
            return tokenizer.encode("".join(message["content"] for message in messages))
        return tokenizer.encode(template.render(messages), add_special_tokens=False)

    def _take_over(self, token_ids: SequenceOf[int], num_new: int) -> None:
        """Make the sequence hold `token_ids`, keeping the cache of the longest common beginning."""
        shared = 0
        for ours, wanted in zip(self._sequence.token_ids, token_ids, strict=False):
            if ours != wanted:
                break
            shared += 1
        self._sequence.require_room(len(token_ids) - len(self._sequence.token_ids) + num_new)
        self._sequence.rollback(shared)
        self._sequence.append(token_ids[shared:])

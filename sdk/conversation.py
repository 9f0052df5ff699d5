"""A chat: turns in, answers out, with the cache kept between turns; when the context is full the oldest turns leave."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from skipstone.async_pieces import async_pieces, join_async
from skipstone.devices import Cancellation
from skipstone.errors import CacheFull, ConfigError
from skipstone.message_files import load_messages, save_messages
from skipstone.messages import Message, encode_messages, written_end
from skipstone.option_types import checks_arguments
from skipstone.options import chat_options
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.engine import Model, PromptProgress, memory_told
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, TextWatch, stream
from skipstone.runtime.text import require_text

__all__ = ["Conversation", "OnFull"]

OnFull = Literal["drop", "stop"]

ANSWER_SHARE = 0.25
KEPT_SHARE = 0.5
SYSTEM = "system"


class Conversation:
    """Messages so far and the sequence that has seen them. After each turn only the new tokens are computed.

    A model without a chat template, as one that was never taught to chat, is fed the bare text of all turns.

    The context is full when a prompt leaves less than a quarter of it for an answer that may be so long. With `on_full`
    `drop` the oldest turns then leave until the prompt takes half of it; what stands before the first turn, a system
    prompt, stays, and so does the last turn where it can. An answer that meets the end of the context is cut there.
    """

    @checks_arguments
    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        context_length: int | None = None,
        exact: bool | None = None,
        on_full: OnFull = "drop",
        prompt_cache: PromptCache | None = None,
    ) -> None:
        """`on_full` `stop` refuses a turn that does not fit, and drops none. Raises: ConfigError.

        `prompt_cache` has, and gets, the rows of all that the first answer follows.
        """
        self._model, self._on_full, self._prompt_cache = model, on_full, prompt_cache
        room = model.room().num_tokens if context_length is None else context_length
        self._sequence = model.new_sequence(context_length=room, exact=exact)
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.num_dropped = 0  # turns that have left

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the whole text so far, the template's included."""
        return list(self._sequence.token_ids)

    @property
    def context_length(self) -> int:
        """How many tokens the text may have."""
        return self._sequence.capacity

    @checks_arguments
    def reply(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        cancel: Cancellation | None = None,
        on_prompt: Callable[[PromptProgress], None] | None = None,
        **named: Any,
    ) -> Generation:
        """Return the answer to `text` when it is whole; `stream` gives it as it comes, and says the rest."""
        return Generation.join(list(self.stream(text, options, cancel=cancel, on_prompt=on_prompt, **named)))

    @checks_arguments
    def stream(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        cancel: Cancellation | None = None,
        on_prompt: Callable[[PromptProgress], None] | None = None,
        **named: Any,
    ) -> Iterator[Piece]:
        """Yield the answer to `text` piece by piece. An answer that is cancelled stays, as far as it came; one that was
        cancelled before its first token leaves the conversation as it was, without the question.

        `cancel` and `on_prompt` are as in `LanguageModel.stream`.

        Without `options` tokens are chosen as the model recommends, and options given by name change single values:
        `stream("Hello", max_new_tokens=40, temperature=0)`. `options` are taken as they are.
        Raises: ConfigError, TextError, CacheFull before any work; the conversation is then as it was. BundleError for a
        prompt cache of other weights.
        """
        if options is not None and named:
            raise ConfigError(f"{', '.join(named)} given beside options; put all of them in one of the two")
        watch = TextWatch(cancel, on_prompt)
        self._model.sessions.gate.require_open()
        options = options or chat_options(recommended=self._model.manifest.sampling, **named)
        if not text:
            raise ConfigError("the message is empty; give at least one character")
        require_text(text)  # here, so that a refusal names a place in the message
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        num_dropped, token_ids = self._fitting(messages, options)
        room = self._sequence.capacity - len(token_ids)
        self._sequence.hold(token_ids)
        options = replace(
            options, max_new_tokens=min(options.max_new_tokens, room), stop=(*options.stop, *written_end(self._model))
        )
        pieces = watch.opened(partial(self._pieces, options), num_prompt_tokens=len(token_ids))
        return self._answer(_without(messages, num_dropped), num_dropped, pieces)

    def astream(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        cancel: Cancellation | None = None,
        **named: Any,
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer to `text` for asyncio, as `stream` does; see `LanguageModel.astream`.

        One answer at a time: begin the next when this has ended.
        """
        return async_pieces(lambda cancel: self.stream(text, options, cancel=cancel, **named), cancel)

    async def areply(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        cancel: Cancellation | None = None,
        **named: Any,
    ) -> Generation:
        """Return the answer to `text` for asyncio, when it is whole."""
        return await join_async(self.astream(text, options, cancel=cancel, **named))

    @property
    def system(self) -> str | None:
        """What the model is told first; None without it. A new one keeps the turns, and is read with the next one."""
        first = self.messages[0] if self.messages else None
        return str(first["content"]) if first is not None and first["role"] == SYSTEM else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": SYSTEM, "content": text}, *rest] if text else [*rest]

    def undo(self) -> str | None:
        """Take the last turn back, question and answer, and return its question; None where there is none.

        What stands before it stays in the cache.
        """
        turns = _turns(self.messages)
        if not turns:
            return None
        question = str(self.messages[turns[-1]]["content"])
        self.messages = self.messages[: turns[-1]]
        return question

    def clear(self) -> None:
        """Take all turns back. The system prompt stays."""
        turns = _turns(self.messages)
        self.messages = self.messages[: turns[0]] if turns else self.messages

    @checks_arguments
    def regenerate(self, options: GenerationOptions | None = None, **named: Any) -> Iterator[Piece]:
        """Yield another answer to the last question; arguments are those of `stream`.

        The old answer stays where the new one ends before its first token. Raises: ConfigError where nothing was asked,
        and as `stream`.
        """
        before = self.messages
        question = self.undo()
        if question is None:
            raise ConfigError("there is no question to answer again; ask one first")
        try:
            pieces = self.stream(question, options, **named)
        except BaseException:
            self.messages = before
            raise
        return self._replacing(before, pieces)

    def _replacing(self, before: list[Message], pieces: Iterator[Piece]) -> Iterator[Piece]:
        kept = self.messages
        try:
            yield from pieces
        finally:
            if self.messages is kept:  # nothing came
                self.messages = before

    def save(self, file: str | Path) -> None:
        """Write the messages to a file, a JSON list as chat services take it: [{"role": ..., "content": ...}, ...].

        A file of another kind is not replaced. Raises: OutputError.
        """
        save_messages(Path(file), self.messages)

    def load(self, file: str | Path) -> None:
        """Take the messages of a file that `save` wrote, or of a JSON object that holds them as `messages`.

        Raises: ConfigError for another file; the conversation is then as it was.
        """
        self.messages = load_messages(Path(file))

    def _pieces(self, options: GenerationOptions) -> Iterator[Piece]:
        """Yield the answer's pieces; what stands before the first answer may come from the prompt cache."""
        cache, sequence = self._prompt_cache, self._sequence
        if cache is None or sequence.num_cached:
            return stream(self._model, sequence, options)
        cache.fill(sequence, options)
        return cache.keeping(sequence, options, stream(self._model, sequence, options))

    def _answer(self, messages: list[Message], num_dropped: int, pieces: Iterator[Piece]) -> Iterator[Piece]:
        shown: list[str] = []
        try:
            for piece in pieces:
                if piece.token_ids or piece.text or piece.finish_reason != "cancelled":
                    shown.append(piece.text)
                yield piece
        finally:
            if shown:
                self.num_dropped += num_dropped
                self.messages = [*messages, {"role": "assistant", "content": "".join(shown)}]

    def _fitting(self, messages: list[Message], options: GenerationOptions) -> tuple[int, list[int]]:
        """Return how many turns leave, and the tokens of what stays. Raises: CacheFull when even one does not fit."""
        capacity, least = self._sequence.capacity, max(1, options.sampling.min_new_tokens)
        answer = max(least, min(options.max_new_tokens, int(capacity * ANSWER_SHARE)))
        num_old = len(_turns(messages)) - 1

        def prompt(num_dropped: int) -> list[int]:
            return encode_messages(self._model, _without(messages, num_dropped))

        whole = prompt(0)
        if len(whole) + (answer if self._on_full == "drop" else least) <= capacity:
            return 0, whole
        alone = prompt(num_old)
        if len(alone) + least > capacity:
            raise CacheFull(self._too_long(len(alone) + least))
        if self._on_full == "stop":
            raise CacheFull(
                f"the context of {capacity} tokens is full; raise --context, begin a new talk, or let --on-full drop "
                "the oldest turns"
            )
        most = min(int(capacity * KEPT_SHARE), capacity - answer)
        num_dropped = 1 + bisect_left(range(1, num_old), True, key=lambda number: len(prompt(number)) <= most)
        kept = prompt(num_dropped) if num_dropped < num_old else alone
        return (num_dropped, kept) if len(kept) + answer <= capacity else (num_old, alone)

    def _too_long(self, num_tokens: int) -> str:
        """Say what to do about a message that does not fit, whatever leaves."""
        capacity, most = self._sequence.capacity, self._model.manifest.context_length
        takes = memory_told(self._model.manifest, self._model.sessions.cache_type, min(num_tokens, most))
        raising = f", or raise --context up to {most}" if self._sequence.cache.capacity < most else ""
        raising += f" ({num_tokens} tokens take {takes})" if raising and num_tokens <= most else ""
        return (
            f"the message takes {num_tokens} tokens with what must stand before and behind it, the context holds "
            f"{capacity}; shorten it{raising}"
        )


def _turns(messages: SequenceOf[Message]) -> list[int]:
    """Return where turns begin: with each message of the user."""
    return [place for place, message in enumerate(messages) if message["role"] == "user"]


def _without(messages: list[Message], num_turns: int) -> list[Message]:
    """Return the messages without the oldest turns; what stands before the first stays."""
    turns = _turns(messages)
    return [*messages[: turns[0]], *messages[turns[num_turns] :]]

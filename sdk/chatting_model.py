"""What a model answers: to messages as other programs write them, or in a conversation that it keeps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from skipstone.async_pieces import async_pieces, join_async
from skipstone.conversation import Conversation, OnFull
from skipstone.devices import Cancellation
from skipstone.errors import ConfigError
from skipstone.messages import checked_messages, encode_messages, written_end
from skipstone.option_types import checked, checks_arguments
from skipstone.options import chat_options, generation_options
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.engine import Draft, PromptProgress, Room, save_prefix
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, TextWatch, stream
from skipstone.suggesting_model import SuggestingModel

__all__ = ["ChattingModel"]


class ChattingModel(SuggestingModel):
    """The part of a `LanguageModel` that answers."""

    @overload
    def chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[True],
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Iterator[Piece]: ...

    @overload
    def chat(
        self,
        *,
        system: str | None = None,
        context_length: int | None = None,
        exact: bool | None = None,
        on_full: OnFull = "drop",
        prompt_cache: str | Path | PromptCache | None = None,
    ) -> Conversation: ...

    @checks_arguments
    def chat(
        self,
        messages: Any = None,
        *,
        stream: bool = False,
        system: str | None = None,
        context_length: int | None = None,
        on_full: OnFull | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Generation | Iterator[Piece] | Conversation:
        """Return the answer to messages; without any, an empty conversation, whose cache is kept between turns.

        `chat([{"role": "user", "content": "hi"}], max_new_tokens=64)` gives what the first turn of a conversation
        gives. Roles are system, developer, user, assistant and tool, as far as the model's template takes them; options
        are those of `generate`, `cancel` and `on_prompt` too, and what is not said is as in a chat: tokens are chosen
        as the model recommends. An answer that meets the end of the context is cut there. With `stream=True`, as the
        clients of OpenAI, ollama and llama.cpp spell it, it comes piece by piece.

        Of a conversation: `system` stands before the first turn, `exact` is that of all its answers. `on_full`: when
        the context is full, `drop`, the default, lets the oldest turns leave, `stop` refuses the next.
        `prompt_cache` keeps what stands before the first turn, and that turn, for later talks; see `stream`.
        Raises: ConfigError, TextError, CacheFull, all before any work.
        """
        if messages is None:
            if stream:
                raise ConfigError("stream gives the answer to messages piece by piece, and there are none; give some")
            return self._conversation(system, context_length, on_full or "drop", prompt_cache, **options)
        if system is not None or on_full is not None:
            raise ConfigError("system and on_full are for a conversation; put the system prompt into the messages")
        pieces = self._answer(messages, context_length, prompt_cache, **options)
        return pieces if stream else Generation.join(list(pieces))

    @overload
    def achat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        cancel: Cancellation | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Generation]: ...

    @overload
    def achat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        *,
        stream: Literal[True],
        cancel: Cancellation | None = None,
        **options: Any,
    ) -> AsyncGenerator[Piece, None]: ...

    def achat(
        self, messages: Any, *, stream: bool = False, cancel: Cancellation | None = None, **options: Any
    ) -> Coroutine[Any, Any, Generation] | AsyncGenerator[Piece, None]:
        """Return the answer to messages for asyncio, as `chat` gives it: `await` it, or iterate with `stream=True`.

        See `astream`.
        """
        pieces = async_pieces(lambda cancel: self.chat(messages, stream=True, cancel=cancel, **options), cancel)
        return pieces if stream else join_async(pieces)

    def _conversation(
        self,
        system: str | None,
        context_length: int | None,
        on_full: OnFull,
        prompt_cache: str | Path | PromptCache | None,
        exact: bool | None = None,
        **options: Any,
    ) -> Conversation:
        if options:
            raise ConfigError(f"{', '.join(options)} given without messages; give them to the conversation's `reply`")
        return Conversation(
            self.runtime,
            system=system,
            context_length=context_length,
            exact=exact,
            on_full=on_full,
            prompt_cache=None if prompt_cache is None else self.prompt_cache(prompt_cache),
        )

    def _answer(
        self,
        messages: object,
        context_length: int | None,
        prompt_cache: str | Path | PromptCache | None,
        cancel: Cancellation | None = None,
        on_prompt: Callable[[PromptProgress], None] | None = None,
        on_measuring: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Iterator[Piece]:
        """Yield the answer to messages."""
        watch = TextWatch(cancel, on_prompt, on_measuring=on_measuring)
        chosen = chat_options(recommended=self.runtime.manifest.sampling, **options)
        token_ids = encode_messages(self.runtime, checked_messages(messages, self.runtime.chat_template))
        cache = None if prompt_cache is None else self.prompt_cache(prompt_cache)
        begin = partial(self._begin_answer, token_ids, chosen, context_length, cache)
        return watch.opened(begin, num_prompt_tokens=len(token_ids))

    def _begin_answer(
        self, token_ids: list[int], chosen: GenerationOptions, context_length: int | None, cache: PromptCache | None
    ) -> Iterator[Piece]:
        if context_length is None:
            context_length = self.room(token_ids, chosen).num_tokens
        sequence = self.runtime.new_sequence(context_length=context_length, exact=chosen.wants_exact)
        sequence.append(token_ids)
        sequence.begin()
        sequence.require_room(max(1, chosen.sampling.min_new_tokens))
        chosen = replace(
            chosen,
            max_new_tokens=min(chosen.max_new_tokens, sequence.room),
            stop=(*chosen.stop, *written_end(self.runtime)),
        )
        if cache is None:
            return stream(self.runtime, sequence, chosen)
        cache.fill(sequence, chosen)
        return cache.keeping(sequence, chosen, stream(self.runtime, sequence, chosen))

    @checks_arguments
    def save_prefix(self, file: str | Path, prompt: str, *, context_length: int | None = None) -> int:
        """Compute a prompt and keep its rows in a file for texts that begin with it; return the bytes of the file.

        Raises: ConfigError for fewer than two tokens, CacheFull, OutputError.
        """
        token_ids = self.encode(prompt)
        room = self.runtime.room(num_tokens=len(token_ids)).num_tokens if context_length is None else context_length
        sequence = self.runtime.new_sequence(context_length=room, exact=None)
        sequence.append(token_ids)
        sequence.begin()
        sequence.extend(Draft.empty())
        return save_prefix(Path(file), sequence, len(sequence.token_ids) - 1)

    @checks_arguments
    def load_prefix(self, file: str | Path) -> PromptCache:
        """Return what a file keeps, for `prompt_cache` of any number of texts; the file is checked once, and only read.

        Raises: BundleError for a file that is missing, damaged, or made for other weights.
        """
        return PromptCache(self.runtime, Path(file), renews=False)

    def prompt_cache(self, file: str | Path | PromptCache) -> PromptCache:
        """Return the prompt cache in a file, which is made when it is missing and renewed for longer prompts.

        Raises: ConfigError for what is no path, and for what another model has loaded.
        """
        if not isinstance(file, PromptCache):
            return PromptCache(self.runtime, checked("prompt_cache", file, Path))
        if file.model.bundle is not self.runtime.bundle:
            raise ConfigError("this prompt cache is another model's; load the file with the model that is to read it")
        return file

    def room(self, token_ids: SequenceOf[int], options: GenerationOptions, *, num_rows: int = 1) -> Room:
        """Return for how many tokens a prompt and its answer get room where nobody says; `told` says why no more."""
        return self.runtime.room(num_rows=num_rows, num_tokens=len(token_ids) + options.max_new_tokens)

    def options(self, **options: Any) -> GenerationOptions:
        """Return options given by name for this model, which knows what it recommends. Raises: ConfigError."""
        return generation_options(recommended=self.runtime.manifest.sampling, **options)

"""What `skipstone.load` gives: prompts in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, overload

from skipstone.async_pieces import async_pieces, join_async
from skipstone.chatting_model import ChattingModel
from skipstone.devices import Cancellation, Cancelled
from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.options import generation_options
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.engine import Draft, PromptProgress, Sequence
from skipstone.runtime.generation import (
    Choice,
    Generation,
    GenerationOptions,
    Normalize,
    Piece,
    Samples,
    TextWatch,
    cancelled_piece,
    choose,
    require_side_by_side,
    stream,
    stream_batch,
    stream_side_by_side,
    with_seed,
)
from skipstone.runtime.methods import MethodChoice

__all__ = ["LanguageModel", "generation_options"]

OnPrompt = Callable[[PromptProgress], None]
OnMeasuring = Callable[[str], None]


class LanguageModel(ChattingModel):
    """A model ready to write. One object may serve any number of texts, in any number of threads.

    Options of `stream` and `generate` are those of `GenerationOptions` (max_new_tokens, stop, decode and so on) and of
    `SamplingOptions` (temperature, top_k, top_p, min_p, seed and so on); without any, the likeliest token wins. With
    `sampling="model"` tokens are chosen as the model recommends, in all that no other option says. None stands for an
    option that is not set. An option or a prompt of another type is refused before any work.
    """

    @checks_arguments
    def stream(
        self,
        prompt: str | SequenceOf[int],
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        cancel: Cancellation | None = None,
        on_prompt: OnPrompt | None = None,
        on_measuring: OnMeasuring | None = None,
        **options: Any,
    ) -> Iterator[Piece]:
        """Yield pieces of the text that follows `prompt`; the last says why it ended and what it cost.

        A prompt is a string, or its tokens as a list of ids, such as `encode` gives.
        `prompt_cache` is a file that keeps what the prompt begins with for later texts, or what `load_prefix` gives.
        `cancel` ends the text at once, from any thread, also while the prompt is read; or stop iterating. `on_prompt`
        hears how far the prompt is read, after each piece of it; `on_measuring`, at the first use of a bundle on a
        device, what is measured. Raises: ConfigError, CacheFull, BundleError for another file, all before any work.
        """
        watch = TextWatch(cancel, on_prompt, on_measuring=on_measuring)
        chosen, token_ids = self.options(**options), self.encode(prompt)
        cache = None if prompt_cache is None else self.prompt_cache(prompt_cache)

        def begin() -> Iterator[Piece]:
            sequence = self._read(token_ids, chosen, context_length)
            if cache is None:
                return stream(self.runtime, sequence, chosen)
            cache.fill(sequence, chosen)
            return cache.keeping(sequence, chosen, stream(self.runtime, sequence, chosen))

        return watch.opened(begin, num_prompt_tokens=len(token_ids))

    def astream(
        self, prompt: str, *, cancel: Cancellation | None = None, **options: Any
    ) -> AsyncGenerator[Piece, None]:
        """Yield what `stream` does, for asyncio: the event loop never waits for the model.

        A piece is made when it is asked for, in a thread of the text's own. Where the task is cancelled the model call
        ends at once, and a `cancel` that is given is cancelled too. Several texts run side by side. `options` are those
        of `stream`; what it raises comes with the first piece.
        """
        return async_pieces(lambda cancel: self.stream(prompt, cancel=cancel, **options), cancel)

    async def agenerate(self, prompt: str, *, cancel: Cancellation | None = None, **options: Any) -> Generation:
        """Return what `generate` gives for a prompt, for asyncio; see `astream`."""
        return await join_async(self.astream(prompt, cancel=cancel, **options))

    @overload
    def generate(
        self,
        prompts: str | SequenceOf[int],
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        cancel: Cancellation | None = None,
        on_prompt: OnPrompt | None = None,
        on_measuring: OnMeasuring | None = None,
        **options: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompts: SequenceOf[str],
        *,
        context_length: int | None = None,
        cancel: Cancellation | None = None,
        on_prompt: OnPrompt | None = None,
        on_measuring: OnMeasuring | None = None,
        **options: Any,
    ) -> list[Generation]: ...

    @checks_arguments
    def generate(
        self,
        prompts: str | SequenceOf[int] | SequenceOf[str],
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        cancel: Cancellation | None = None,
        on_prompt: OnPrompt | None = None,
        on_measuring: OnMeasuring | None = None,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Return what follows a prompt, or each of several.

        Each gets the text it gets alone. Several are decoded together, one row each, when `decode` is `auto` or `plain`
        and that changes no text: with int4 and int8 it would, at near ties, so there it takes `exact=False`.
        `prompt_cache` is for one prompt; it, `cancel`, `on_prompt` and `on_measuring` are as in `stream`. Of several
        texts all that have not ended are cancelled; texts that are decoded together count their prompts together.
        """

        def alone(prompt: str | SequenceOf[int]) -> Generation:
            pieces = self.stream(
                prompt,
                context_length=context_length,
                prompt_cache=prompt_cache,
                cancel=cancel,
                on_prompt=on_prompt,
                on_measuring=on_measuring,
                **options,
            )
            return Generation.join(list(pieces))

        if _is_prompt(prompts):
            return alone(prompts)
        if prompt_cache is not None:
            raise ConfigError("prompt_cache is for one prompt; give prompts one by one, or leave it out")
        watch, chosen = TextWatch(cancel, on_prompt, on_measuring=on_measuring), self.options(**options)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = [self.encode(text) for text in texts]
        if not self._takes_batches(chosen):
            with suppress(Cancelled), watch.meanwhile():
                if encoded:
                    self._read(max(encoded, key=len), chosen, context_length)
            return [alone(text) for text in texts]
        of_prompts: list[list[Piece]] = [[] for _ in encoded]
        if encoded:
            pieces = stream_batch(self.runtime, encoded, chosen, context_length=context_length)
            for index, piece in watch.over(pieces):
                of_prompts[index].append(piece)
        return [Generation.join(of_prompt) for of_prompt in of_prompts]

    def _takes_batches(self, options: GenerationOptions) -> bool:
        """Whether several texts may be decoded together: a row then rounds as one of a batch."""
        exact = self.runtime.is_exact_by_default if options.exact is None else options.exact
        can_run = MethodChoice.parse(options.decode).takes_batches and not self.runtime.manifest.is_traced
        return can_run and not (exact and options.verify == "match")

    @checks_arguments
    def samples(
        self,
        prompt: str | SequenceOf[int],
        count: int,
        *,
        first: int | None = None,
        context_length: int | None = None,
        cancel: Cancellation | None = None,
        on_prompt: OnPrompt | None = None,
        on_measuring: OnMeasuring | None = None,
        **options: Any,
    ) -> Samples:
        """Yield `count` texts that follow one prompt, with the seeds from `seed` on; the prompt is read once.

        Each is the text that its seed gives alone; drafters find in one what they saw in those before. What is yielded
        can be judged: `best` of n, the `vote` of the majority, the `coverage` of a task.

        With `first` texts are decoded side by side, the first so many to end are yielded, and the others cancelled.
        Each is the text that its seed gives alone, one row for a call; with `exact=False`, and in fp32, calls are made
        of rows of all of them, and a text is the same up to near ties, or the last bits of float32.
        `cancel`, `on_prompt` and `on_measuring` are as in `stream`; behind a text that was cancelled there is no other.
        Raises: ConfigError, CacheFull, both before any work.
        """
        watch, chosen = TextWatch(cancel, on_prompt, on_measuring=on_measuring), self.options(**options)
        if count < 1:
            raise ConfigError(f"count, the number of samples, must be at least 1, got {count}")
        if count > 1 and chosen.sampling.greedy:
            raise ConfigError(f"at temperature 0 all {count} samples are the same; set a temperature above 0")
        if first is not None and not 1 <= first <= count:
            raise ConfigError(f"first must be 1 to the {count} samples, got {first}")
        if first is not None:
            require_side_by_side(chosen)
        chosen.sampling.require_vocabulary(self.runtime.manifest.dimensions.vocab_size)
        num_rows = 1 + (1 if first is None else count)  # the prompt's own, and those that go on from it
        token_ids = self.encode(prompt)
        try:
            with watch.meanwhile():
                sequence = self._read(token_ids, chosen, context_length, num_rows=num_rows)
        except Cancelled:
            return Samples(iter((Generation.join([cancelled_piece(len(token_ids))]),)))
        if first is None:
            return Samples(self._samples(sequence, count, chosen, watch))
        return Samples(self._firsts(sequence, count, first, chosen, watch))

    def _read(
        self, token_ids: list[int], options: GenerationOptions, context_length: int | None, *, num_rows: int = 1
    ) -> Sequence:
        """Return a sequence that holds the prompt, with room for the text, one of so many at once.

        Raises: ConfigError, CacheFull.
        """
        if context_length is None:
            context_length = self.room(token_ids, options, num_rows=num_rows).num_tokens
        sequence = self.runtime.new_sequence(context_length=context_length, exact=options.wants_exact)
        sequence.append(token_ids)
        sequence.begin()
        sequence.require_room(options.max_new_tokens)
        return sequence

    def _samples(
        self, sequence: Sequence, count: int, options: GenerationOptions, watch: TextWatch
    ) -> Iterator[Generation]:
        """Yield the texts one after the other, up to one that is cancelled."""
        options, num_tokens = options.seeded(), len(sequence.token_ids)
        with suppress(Cancelled), watch.meanwhile():
            sequence.extend(Draft.empty())  # the first text finds that it is cancelled
        for number in range(count):
            begin = partial(stream, self.runtime, sequence.fork(), with_seed(options, number))
            made = Generation.join(list(watch.opened(begin, num_prompt_tokens=num_tokens)))
            yield made
            if made.finish_reason == "cancelled":
                return

    def _firsts(
        self, sequence: Sequence, count: int, first: int, options: GenerationOptions, watch: TextWatch
    ) -> Iterator[Generation]:
        """Yield the texts that end first, as they end."""
        pieces: list[list[Piece]] = [[] for _ in range(count)]
        for number, piece in watch.over(stream_side_by_side(self.runtime, sequence, options, count=count)):
            pieces[number].append(piece)
            if piece.finish_reason is not None:
                yield Generation.join(pieces[number])
                first -= 1
            if not first:
                return

    @checks_arguments
    def choose(
        self,
        prompt: str,
        answers: SequenceOf[str],
        *,
        dial: float = 1.0,
        normalize: Normalize = "none",
        closing: bool = False,
    ) -> Choice:
        """Return which of some answers is the likeliest continuation of a prompt, and how likely each is among them.

        An answer's score is the log probability of its tokens; `normalize` divides it by its `tokens` or `bytes`,
        `closing` asks for a stop token behind it.
        `dial` 1 runs all layers. Below, the later layers are left out where the best answer leads by more than `dial`
        in probability at an exit: approximate. Raises: ConfigError, CacheFull, both before any work.
        """
        return choose(self.runtime, prompt, answers, dial=dial, normalize=normalize, closing=closing)


def _is_prompt(prompts: str | SequenceOf[int] | SequenceOf[str]) -> TypeGuard[str | SequenceOf[int]]:
    """Whether it is one prompt: a string, or its tokens."""
    return isinstance(prompts, str) or (bool(prompts) and not isinstance(prompts[0], str))

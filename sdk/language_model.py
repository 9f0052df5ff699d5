"""What `skipstone.load` gives: prompts in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any, overload

from skipstone.chatting_model import ChattingModel
from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.options import generation_options
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.engine import Draft, Sequence, save_prefix
from skipstone.runtime.generation import (
    Choice,
    Generation,
    GenerationOptions,
    Normalize,
    Piece,
    Samples,
    choose,
    require_side_by_side,
    stream,
    stream_batch,
    stream_side_by_side,
    with_seed,
)
from skipstone.runtime.methods import MethodChoice

__all__ = ["LanguageModel", "generation_options"]


class LanguageModel(ChattingModel):
    """A model ready to write. One object may serve any number of texts, one call at a time.

    Options of `stream` and `generate` are those of `GenerationOptions` (max_new_tokens, stop, decode and so on) and of
    `SamplingOptions` (temperature, top_k, top_p, min_p, seed and so on); without any, the likeliest token wins. With
    `sampling="model"` tokens are chosen as the model recommends, in all that no other option says. None stands for an
    option that is not set. An option or a prompt of another type is refused before any work.
    """

    @checks_arguments
    def stream(
        self,
        prompt: str,
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Iterator[Piece]:
        """Yield pieces of the text that follows `prompt`; the last says why it ended and what it cost.

        `prompt_cache` is a file that keeps what the prompt begins with for later texts, or what `load_prefix` gives.
        Stop iterating to cancel. Raises: ConfigError, CacheFull, BundleError for another file, all before any work.
        """
        chosen = self.options(**options)
        sequence = self._read(prompt, chosen, context_length)
        if prompt_cache is None:
            return stream(self.runtime, sequence, chosen)
        cache = self.prompt_cache(prompt_cache)
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

    @overload
    def generate(
        self,
        prompts: str,
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self, prompts: SequenceOf[str], *, context_length: int | None = None, **options: Any
    ) -> list[Generation]: ...

    @checks_arguments
    def generate(
        self,
        prompts: str | SequenceOf[str],
        *,
        context_length: int | None = None,
        prompt_cache: str | Path | PromptCache | None = None,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Return what follows a prompt, or each of several.

        Each gets the text it gets alone. Several are decoded together, one row each, when `decode` is `auto` or `plain`
        and that changes no text: with int4 and int8 it would, at near ties, so there it takes `exact=False`.
        `prompt_cache` is for one prompt; see `stream`.
        """
        if isinstance(prompts, str):
            pieces = self.stream(prompts, context_length=context_length, prompt_cache=prompt_cache, **options)
            return Generation.join(list(pieces))
        if prompt_cache is not None:
            raise ConfigError("prompt_cache is for one prompt; give prompts one by one, or leave it out")
        chosen = self.options(**options)
        encoded = [self.encode(prompt) for prompt in prompts]
        if not self._takes_batches(chosen):
            if encoded:
                self._read(max(prompts, key=lambda prompt: len(self.encode(prompt))), chosen, context_length)
            return [self.generate(prompt, context_length=context_length, **options) for prompt in prompts]
        of_prompts: list[list[Piece]] = [[] for _ in encoded]
        if encoded:
            for index, piece in stream_batch(self.runtime, encoded, chosen, context_length=context_length):
                of_prompts[index].append(piece)
        return [Generation.join(of_prompt) for of_prompt in of_prompts]

    def _takes_batches(self, options: GenerationOptions) -> bool:
        """Whether several texts may be decoded together: a row then rounds as one of a batch."""
        exact = self.runtime.is_exact_by_default if options.exact is None else options.exact
        can_run = MethodChoice.parse(options.decode).takes_batches and not self.runtime.manifest.is_traced
        return can_run and not (exact and options.verify == "match")

    @checks_arguments
    def samples(
        self, prompt: str, count: int, *, first: int | None = None, context_length: int | None = None, **options: Any
    ) -> Samples:
        """Yield `count` texts that follow one prompt, with the seeds from `seed` on; the prompt is read once.

        Each is the text that its seed gives alone; drafters find in one what they saw in those before. What is yielded
        can be judged: `best` of n, the `vote` of the majority, the `coverage` of a task.

        With `first` texts are decoded side by side, the first so many to end are yielded, and the others cancelled.
        Then each is the text that its seed gives alone up to near ties; with `exact` bit by bit, one row for a call.
        Raises: ConfigError, CacheFull, both before any work.
        """
        chosen = self.options(**options)
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
        sequence = self._read(prompt, chosen, context_length, num_rows=num_rows)
        return Samples(
            self._samples(sequence, count, chosen) if first is None else self._firsts(sequence, count, first, chosen)
        )

    def _read(
        self, prompt: str, options: GenerationOptions, context_length: int | None, *, num_rows: int = 1
    ) -> Sequence:
        """Return a sequence that holds the prompt, with room for the text, one of so many at once.

        Raises: ConfigError, CacheFull.
        """
        token_ids = self.encode(prompt)
        if context_length is None:
            context_length = self.room(token_ids, options, num_rows=num_rows).num_tokens
        sequence = self.runtime.new_sequence(context_length=context_length, exact=options.wants_exact)
        sequence.append(token_ids)
        sequence.begin()
        sequence.require_room(options.max_new_tokens)
        return sequence

    def _samples(self, sequence: Sequence, count: int, options: GenerationOptions) -> Iterator[Generation]:
        sequence.extend(Draft.empty())
        options = options.seeded()
        for number in range(count):
            yield Generation.join(list(stream(self.runtime, sequence.fork(), with_seed(options, number))))

    def _firsts(self, sequence: Sequence, count: int, first: int, options: GenerationOptions) -> Iterator[Generation]:
        """Yield the texts that end first, as they end."""
        pieces: list[list[Piece]] = [[] for _ in range(count)]
        for number, piece in stream_side_by_side(self.runtime, sequence, options, count=count):
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

"""What `skipstone.load` gives: prompts in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any, overload

from skipstone.conversation import Conversation
from skipstone.errors import ConfigError
from skipstone.runtime.batch import stream_batch
from skipstone.runtime.generation import Generation, GenerationOptions, Piece, stream
from skipstone.runtime.model import Model
from skipstone.runtime.sampling import SamplingOptions

__all__ = ["LanguageModel", "generation_options"]

_SAMPLING_FIELDS = frozenset(SamplingOptions.__dataclass_fields__)


class LanguageModel:
    """A model ready to write. One object may serve any number of texts, one call at a time.

    Options of `stream` and `generate` are those of `GenerationOptions` (max_new_tokens, stop, logprobs) and of
    `SamplingOptions` (temperature, top_k, top_p, min_p, seed and so on); without any, the likeliest token wins.
    """

    def __init__(self, model: Model) -> None:
        self.runtime = model

    def stream(self, prompt: str, *, context_length: int | None = None, **options: Any) -> Iterator[Piece]:
        """Yield pieces of the text that follows `prompt`; the last says why it ended and what it cost.

        Stop iterating to cancel. Raises: ConfigError, CacheFull, both before any work.
        """
        chosen = generation_options(**options)
        sequence = self.runtime.new_sequence(context_length=context_length)
        sequence.append(self.encode(prompt))
        sequence.require_room(chosen.max_new_tokens)
        return stream(self.runtime, sequence, chosen)

    @overload
    def generate(self, prompts: str, *, context_length: int | None = None, **options: Any) -> Generation: ...

    @overload
    def generate(
        self, prompts: SequenceOf[str], *, context_length: int | None = None, **options: Any
    ) -> list[Generation]: ...

    def generate(
        self, prompts: str | SequenceOf[str], *, context_length: int | None = None, **options: Any
    ) -> Generation | list[Generation]:
        """Return what follows a prompt, or each of several, decoded together; each gets the text it gets alone."""
        if isinstance(prompts, str):
            return Generation.join(list(self.stream(prompts, context_length=context_length, **options)))
        chosen = generation_options(**options)
        encoded = [self.encode(prompt) for prompt in prompts]
        pieces: list[list[Piece]] = [[] for _ in encoded]
        if encoded:
            for index, piece in stream_batch(self.runtime, encoded, chosen, context_length=context_length):
                pieces[index].append(piece)
        return [Generation.join(of_prompt) for of_prompt in pieces]

    def chat(self, *, system: str | None = None, context_length: int | None = None) -> Conversation:
        """Return an empty conversation; its cache is kept between turns."""
        return Conversation(self.runtime, system=system, context_length=context_length)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt. Raises: ConfigError when it is empty."""
        token_ids = self.runtime.tokenizer.encode(prompt)
        if not prompt or not token_ids:  # a start token alone is no prompt either
            raise ConfigError("the prompt is empty; give at least one character")
        return token_ids


def generation_options(**options: Any) -> GenerationOptions:
    """Return options given by name, of sampling and of generation alike. Raises: ConfigError for an unknown name."""
    unknown = set(options) - _SAMPLING_FIELDS - set(GenerationOptions.__dataclass_fields__)
    if unknown:
        known = ", ".join(sorted(_SAMPLING_FIELDS | (set(GenerationOptions.__dataclass_fields__) - {"sampling"})))
        raise ConfigError(f"unknown option {', '.join(sorted(unknown))}; known are {known}")
    sampling = {name: value for name, value in options.items() if name in _SAMPLING_FIELDS}
    rest = {name: value for name, value in options.items() if name not in _SAMPLING_FIELDS}
    if "stop" in rest:
        rest["stop"] = (rest["stop"],) if isinstance(rest["stop"], str) else tuple(rest["stop"])
    return GenerationOptions(**({"sampling": SamplingOptions(**sampling)} if sampling else {}) | rest)

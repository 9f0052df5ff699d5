"""Where a text begins: behind its prompt, or inside the prompt's last word."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.generation.beginning import Beginning, begin
from skipstone.runtime.generation.options import GenerationOptions
from skipstone.runtime.text import TextBuilder

__all__ = ["Opening"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The state of a text before its decoding: what is cached of the prompt, and what was made already.

    `num_fed` tokens of the prompt are or were to be read for it; `seconds` have gone.
    """

    model: Model
    options: GenerationOptions
    prompt: tuple[int, ...]
    num_fed: int
    beginning: Beginning | None = None

    @classmethod
    def of(cls, model: Model, sequence: Sequence, options: GenerationOptions) -> Opening:
        """Return the opening of the text that follows `sequence`, of which the end may change: see `begin`."""
        sequence.begin()
        num_cached, beginning = sequence.num_cached, None
        if options.complete_words:
            beginning = begin(model, sequence, options.sampling, max_new_tokens=options.max_new_tokens)
        num_prompt_tokens = beginning.num_prompt_tokens if beginning else len(sequence.token_ids)
        return cls(
            model=model,
            options=options,
            prompt=tuple(sequence.token_ids[:num_prompt_tokens]),
            num_fed=max(0, num_prompt_tokens - num_cached),
            beginning=beginning,
        )

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def steps(self) -> list[Step]:
        """The step that made the first token, where one was made."""
        return self.beginning.steps() if self.beginning else []

    @property
    def num_left(self) -> int:
        """How many tokens decoding may make, at least one: where none is left the text ends before it begins."""
        return max(1, self.options.max_new_tokens - (len(self.beginning.made) if self.beginning else 0))

    @property
    def seconds(self) -> float:
        return self.beginning.seconds if self.beginning else 0.0

    def text_builder(self) -> TextBuilder:
        """Return the empty text."""
        if self.beginning is None:
            return self.options.text_builder(self.model, prompt=self.prompt)
        return self.options.text_builder(
            self.model,
            prompt=self.prompt[: self.beginning.start],
            given=self.beginning.given,
            num_hidden=self.beginning.num_hidden,
        )

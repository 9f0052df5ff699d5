"""What to make of a prompt, and how."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from pathlib import Path

from skipstone.errors import ConfigError
from skipstone.option_types import check_fields
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import Method, MethodChoice, approximate_methods
from skipstone.runtime.sampling import SamplingOptions, seeded
from skipstone.runtime.text import LoopStop, StopDecision, StopStrings, TextBuilder

__all__ = ["GenerationOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """What to make of a prompt, and how. `logprobs`: how many likely tokens to report at each position; None is off.

    `decode` is `plain`, `auto`, drafters joined by commas, or an approximate method. `verify` is the rule for drafts:
    `match` gives the text of plain decoding; `rejection` and `k-seq` give another text of the same law.

    By default the text and its logits are those of plain decoding bit by bit, and drafts, chains where weights are
    quantized, end where that would be dear: kernels round one row in another way than several. With `exact` rows are
    added to the end of the text, at any price; False drafts to the end without, up to near ties, and may branch.
    `Stats.same_text` says what was done.

    An approximate method, such as `exit`, wants `min_agreement`, the share of tokens, 0.8 to 1, that must be the full
    model's choice, or `dial`, a setting in the method's own unit. 1 and the dial's plain end are plain decoding.
    `calibration` is a file for it in place of the one that `skipstone tune` kept; of dials only `exit`'s reads one.

    `stop_below` ends a text, with every method, before the first token at which the model's highest probabilities,
    before any sampler, multiply to less: 0.2 keeps what has a chance of one in five to be the model's greedy choice as
    a whole. It may be the first token, which leaves an empty text. Approximate; 0 is off.

    `stop_loops` ends a text that has fallen into a loop: its last tokens are the same so many or fewer, four times in a
    row or more and over twice as many tokens at least. It ends at the same token with every method; 0 is off.

    `complete_words`: the prompt may end inside a word, as `impor` does. Its last tokens are then taken back to a border
    and others take their place that spell the same bytes and may say more, which begins the text; see `begin`.
    """

    max_new_tokens: int = 128
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    decode: str = "auto"
    verify: str = "match"
    exact: bool | None = None
    min_agreement: float | None = None
    dial: float | None = None
    calibration: str | Path | None = None
    stop_below: float = 0.0
    stop_loops: int = 0
    complete_words: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        StopStrings(self.stop)
        StopDecision(self.stop_below)
        LoopStop(self.stop_loops)
        MethodChoice.parse(self.decode, rule=self.verify)
        if self.approximate is not None:
            self.approximate.require_setting(self.min_agreement, self.dial, self.calibration)
            self.approximate.require_sampling(self.sampling)
            if self.verify != "match":
                raise ConfigError(
                    f"{self.decode} decides itself which guesses stand, {self.verify} cannot; leave verify at match"
                )
        elif (self.min_agreement, self.dial, self.calibration) not in ((None, None, None), (None, 0.0, None)):
            raise ConfigError(
                f"min_agreement, dial and calibration are for approximate decoding only, got decode {self.decode}; "
                f"approximate are {', '.join(approximate_methods())}"
            )
        if self.exact and MethodChoice.parse(self.decode).needs_trees:
            raise ConfigError(
                f"exact takes chains only, which {self.decode} does not draft; leave it out or use another"
            )
        if self.exact and self.verify != "match":
            raise ConfigError(f"exact gives the bits of plain decoding, which {self.verify} does not; use match")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.sampling.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens {self.sampling.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}"
            )
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs must be at least 0, got {self.logprobs}")

    @property
    def wants_exact(self) -> bool | None:
        """Whether the text's sequence must be exact; None where it may."""
        return self.exact if self.verify == "match" else False

    @property
    def approximate(self) -> Method | None:
        """The approximate method that is asked for; None where the text is to be plain decoding's."""
        method = approximate_methods().get(self.decode.strip())
        if (
            method is not None
            and method.drafts
            and self.min_agreement is None
            and self.dial in (None, method.dial.plain)
        ):
            return None
        return method

    def seeded(self) -> GenerationOptions:
        """Return the same options with a seed drawn where they need one and none is given."""
        sampling = seeded(self.sampling)
        return self if sampling is self.sampling else replace(self, sampling=sampling)

    def stop_ids(self, model: Model) -> tuple[int, ...]:
        """Return the tokens that end a text: the model's own, and special ones that are a stop string by themselves."""
        tokenizer, stop_ids = model.tokenizer, list(model.manifest.stop_ids)
        names = [name for token_id in tokenizer.special_ids if (name := tokenizer.piece(token_id))]
        for text in self.stop:
            if tokenizer.backend.normalizer is None and not any(name in text for name in names):
                continue  # no special token; cutting thousands of texts takes seconds
            token_ids = tokenizer.encode(text, add_special_tokens=False)
            if len(token_ids) == 1 and token_ids[0] in tokenizer.special_ids:
                stop_ids += token_ids
        return tuple(dict.fromkeys(stop_ids))

    def text_builder(
        self, model: Model, *, prompt: SequenceOf[int], given: SequenceOf[int] = (), num_hidden: int = 0
    ) -> TextBuilder:
        """Return the empty text that follows `prompt`; see `TextBuilder`."""
        return TextBuilder(
            model.tokenizer,
            prompt=prompt,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            stop_ids=self.stop_ids(model),
            stop_below=self.stop_below,
            stop_loops=self.stop_loops,
            given=given,
            num_hidden=num_hidden,
        )

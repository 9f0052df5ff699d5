"""What a way of making several drafts is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from skipstone.errors import ConfigError
from skipstone.option_types import check_fields
from skipstone.runtime.costs import CostCurve
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import NgramStore, TextStream, Tokenizer

__all__ = ["SuggestRequest", "Suggestion"]

MOST_DRAFTS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A short text that may follow a prompt.

    `score` is the mean natural-log probability of its tokens under the model, or what the way that made it has in its
    place: higher is better. `token_ids` are all that were made, the stop token with them.
    """

    text: str
    score: float
    token_ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestRequest:
    """How many drafts of how many tokens are wanted.

    `sampling`: greedy, or drawn; a way that never draws refuses the latter. `ngrams` are counts of the user's texts,
    for the way that uses them. `costs` tell `auto` what calls take here.

    Raises: ConfigError for less than one draft or token, and for more drafts than `MOST_DRAFTS`.
    """

    tokenizer: Tokenizer
    num_drafts: int = 3
    max_new_tokens: int = 10
    stop_ids: tuple[int, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    ngrams: NgramStore | None = None
    costs: CostCurve | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("num_drafts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_drafts > MOST_DRAFTS:
            raise ConfigError(f"num_drafts must be at most {MOST_DRAFTS}, got {self.num_drafts}")

    def sampler(self, number: int, *, num_prompt_tokens: int) -> Sampler:
        """Return the sampler of the draft `number`, which draws by a seed of its own."""
        sampler = Sampler.from_options(self.sampling, stop_ids=self.stop_ids, num_prompt_tokens=num_prompt_tokens)
        return Sampler(processors=sampler.processors, seed=(sampler.seed + number) % 2**64, greedy=sampler.greedy)

    def require_greedy(self, name: str) -> None:
        """Raise ConfigError when tokens are to be drawn, which the way `name` never does."""
        if not self.sampling.greedy:
            raise ConfigError(f"{name} draws nothing, so a temperature has no place; leave it out, or take branch")

    def require_no_processors(self, name: str) -> None:
        """Raise ConfigError for functions of the user's, where the way `name` has one law for texts that differ."""
        if self.sampling.processors:
            raise ConfigError(f"{name} has one law for all drafts, and processors look at each; take branch or beam")

    def ends(self, token_ids: SequenceOf[int]) -> bool:
        """Whether a draft with these tokens is at its end."""
        return len(token_ids) >= self.max_new_tokens or token_ids[-1] in self.stop_ids

    def suggestions(self, prompt: SequenceOf[int], drafts: Iterable[tuple[SequenceOf[int], float]]) -> list[Suggestion]:
        """Return the best drafts as texts behind a prompt; each is given as its tokens and its score."""
        scores: dict[tuple[int, ...], float] = {}
        for token_ids, score in sorted(drafts, key=lambda draft: -draft[1]):
            scores.setdefault(tuple(token_ids), score)
        best = list(scores.items())[: self.num_drafts]
        return [Suggestion(text=self._text(prompt, ids), score=score, token_ids=ids) for ids, score in best]

    def _text(self, prompt: SequenceOf[int], token_ids: SequenceOf[int]) -> str:
        """Return the text of a draft, without a character that is not whole at its end."""
        stream = TextStream(self.tokenizer, after=prompt[-1])
        return "".join(stream.push(token_id) for token_id in token_ids if token_id not in self.stop_ids)

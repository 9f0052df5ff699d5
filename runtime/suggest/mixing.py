"""How much the n-grams count in superposed drafts, by how many drafts there are and how long the prompt is."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from types import MappingProxyType

from skipstone.errors import ConfigError

__all__ = ["ORDER_WEIGHTS", "UNSEEN_PENALTY", "Mixing", "mixing_for"]

ORDER_WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)
"""Lambda: what the n-grams of orders 2 to 6 count. They sum to 0.5, so what comes of them is no distribution."""
UNSEEN_PENALTY = 200.0
"""Delta: taken off the log score of a token that no n-gram knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """`alpha` 0..1 is what the n-grams count; the model's law at `temperature` keeps its `num_kept` best tokens.

    Raises: ConfigError for a temperature that is not above 0, or an alpha outside 0..1.
    """

    alpha: float
    temperature: float
    num_kept: int

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1 or self.temperature <= 0 or self.num_kept < 1:
            raise ConfigError(f"a mixing needs 0 <= alpha < 1, a temperature above 0 and kept tokens, got {self}")

    def alone(self) -> Mixing:
        """Return the mixing without n-grams, in which the model's law counts as much as it does with them.

        There log probabilities count 1 - alpha times, which is a higher temperature.
        """
        return Mixing(alpha=0.0, temperature=self.temperature / (1 - self.alpha), num_kept=self.num_kept)


def _mixing(alpha: float, temperature: float, num_kept: int) -> Mixing:
    return Mixing(alpha=alpha, temperature=temperature, num_kept=num_kept)


BY_DRAFTS = MappingProxyType(
    {
        2: _mixing(0.62, 0.06, 6),
        3: _mixing(0.54, 0.06, 9),
        4: _mixing(0.52, 0.06, 12),
        5: _mixing(0.60, 0.06, 15),
        6: _mixing(0.52, 0.06, 18),
        10: _mixing(0.54, 0.12, 30),
    }
)
"""For prompts of some 15 tokens, by the number of drafts."""
BY_PROMPT = MappingProxyType(
    {5: _mixing(0.34, 0.12, 15), 15: BY_DRAFTS[3], 25: _mixing(0.50, 0.12, 15), 40: _mixing(0.55, 0.10, 15)}
)
"""For three drafts, by the number of tokens in the prompt."""


def mixing_for(num_drafts: int, *, num_prompt_tokens: int) -> Mixing:
    """Return the published setting for so many drafts, and for three of them for so long a prompt.

    In between the setting for fewer is taken. Each draft could want twice its share of the kept tokens, so there are at
    least three for each. Source: Superposed Decoding (Shen et al., 2024), for Llama 2 of 7 B.
    """
    table, number = (BY_PROMPT, num_prompt_tokens) if num_drafts == 3 else (BY_DRAFTS, num_drafts)
    known = list(table)
    mixing = table[known[max(bisect_right(known, number) - 1, 0)]]
    return _mixing(mixing.alpha, mixing.temperature, max(mixing.num_kept, 3 * num_drafts))

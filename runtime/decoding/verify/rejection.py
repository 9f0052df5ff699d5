"""The rule for guesses drawn by chance: each stands as often as the model's law allows, and what is missing is drawn.

p is the model's law at a row, q the law its guesses were drawn from, x a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.drafter import Accept
from skipstone.runtime.decoding.verify.chance import Coins, Law, TargetLaw, by_chance, excess, law_of_guesses
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler

__all__ = ["judge_chain", "judge_drawn", "judge_tree", "reject"]

# Smaller rests of q are subnormal numbers, or near them: too coarse to compare with.
_LEAST_MASS = 1e-280


def reject(sampler: Sampler, history: Sequence[int]) -> Accept:
    """Return the rule for drafts with `laws`: the text follows the model's law, and more guesses stand than by `match`.

    The text of a seed differs from that of plain decoding, its distribution does not; greedy text is the same. Drafts
    without laws are verified as `match` does. `history` is the live list of the sequence's tokens.

    What a drafter must keep to: noise of its own (`draft_seed`); the guesses after one row drawn one after the other
    from its law, without replacement; a guess that was drawn stays in the draft. Whether another is drawn may depend on
    those before it. Whether the draft is a chain must not: chains are judged as a whole, trees row by row.

    Raises: ConfigError for a draft with replacement, or without the law of a row. Cost: for a chain, the laws of all
    rows and three passes over V for each; for a tree those on the path, and the passes for each guess tried.
    """
    return by_chance(sampler, history, judge_drawn)


def judge_drawn(draft: Draft, target: TargetLaw, coins: Coins) -> list[int]:
    """Return the tokens to emit, by the rule that fits the shape of the draft."""
    if draft.draws:
        raise ConfigError(
            f"drafter {draft.source} draws with replacement, which the rule rejection cannot judge; choose k-seq"
        )
    return judge_chain(draft, target, coins) if draft.is_chain else judge_tree(draft, target, coins)


def judge_chain(draft: Draft, target: TargetLaw, coins: Coins) -> list[int]:
    """Return the longest prefix of a chain that its coin lets stand, and one token.

    pi is the chance with which the guesses up to a row shall stand; the chance of a prefix makes up for the longer ones
    that fell. Source: block verification (Sun et al., 2024).
    """
    guesses = draft.token_ids
    pi = 1.0
    chances: list[float] = []
    residuals: list[tuple[Law, Law]] = []
    for row, guess in enumerate(guesses):
        p = target(row, guesses[:row])
        q = law_of_guesses(draft, row, len(p))
        gain = float(np.maximum(pi * p - q, 0.0).sum())
        # With pi = 1 and p = q this would be 0 / 0; but then a longer prefix stands.
        chances.append(1.0 if pi == 1.0 else gain / (gain + 1.0 - pi))
        residuals.append((pi * p, q))
        pi = min(1.0, pi * _ratio(p, q, guess))
        if pi == 0.0:
            break  # nothing longer can stand, and a processor may not know what follows a token that it bans
    if coins.flip(pi):
        return [*guesses, coins.draw(target(len(guesses), guesses))]
    # The empty prefix has the chance 1.
    row = next(row for row in reversed(range(len(chances))) if coins.flip(chances[row]))
    return [*guesses[:row], coins.draw(excess(*residuals[row]))]


def judge_tree(draft: Draft, target: TargetLaw, coins: Coins) -> list[int]:
    """Return a path of guesses that stand, and one token; siblings are tried in the order drawn.

    Source: recursive rejection of guesses drawn without replacement (Jeon et al., 2024; Sequoia, Chen et al., 2024).
    """
    accepted: list[int] = []
    row: int | None = 0
    while row is not None:
        p = target(row, accepted)
        children = [index for index, parent in enumerate(draft.parents, start=1) if parent == row]
        if children:
            row, p = _first_standing(draft, children, p, law_of_guesses(draft, row, len(p)), coins)
        else:
            row = None
        accepted.append(coins.draw(p) if row is None else draft.token_ids[row - 1])
    return accepted


def _first_standing(draft: Draft, children: Sequence[int], p: Law, q: Law, coins: Coins) -> tuple[int | None, Law]:
    """Return the first of the rows that stands, or None and the law of the token to draw instead."""
    for row in children:
        guess = draft.token_ids[row - 1]
        if q[guess] == 0.0:
            break  # q is used up; p may be drawn from at any point
        if coins.flip(_ratio(p, q, guess)):
            return row, p
        p, q = excess(p, q), without(q, guess)
    return None, p


def without(q: Law, guess: int) -> Law:
    """Return the law of the next guess drawn without replacement; all 0 when nothing is left to draw from."""
    rest = q.copy()
    rest[guess] = 0.0
    total = float(rest.sum())
    return rest / total if total > _LEAST_MASS else np.zeros_like(q)


def _ratio(p: Law, q: Law, guess: int) -> float:
    """Return p / q for one token; 0 where q says that it could not have been drawn."""
    return float(p[guess]) / float(q[guess]) if q[guess] > 0 else 0.0

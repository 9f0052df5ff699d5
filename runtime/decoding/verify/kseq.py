"""The rule for several chains drawn independently of each other, and merged into a tree where they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.decoding.drafter import Accept
from skipstone.runtime.decoding.verify.chance import Coins, Law, TargetLaw, by_chance, excess, law_of_guesses
from skipstone.runtime.engine import Draft
from skipstone.runtime.sampling import Sampler

__all__ = ["judge_draws", "k_seq", "selection"]

NUM_HALVINGS = 30


def k_seq(sampler: Sampler, history: Sequence[int]) -> Accept:
    """Return the rule for drafts with `laws` and `draws`: the text follows the model's law.

    The text of a seed differs from that of plain decoding, its distribution does not; greedy text is the same. Drafts
    without laws are verified as `match` does. `history` is the live list of the sequence's tokens.

    What a drafter must keep to: noise of its own (`draft_seed`); k chains, each drawn as if it were alone; `draws[r]`
    names the next row of every chain that passes row r, equal ones as often as they were drawn. How far a chain goes
    may depend on its guesses so far, not on the next one.

    Raises: ConfigError for laws without draws, or without the law of a row. Cost: at each accepted row some 100 passes
    over the tokens that both laws know. Source: SpecTr (Sun et al., 2023).
    """
    return by_chance(sampler, history, judge_draws)


def judge_draws(draft: Draft, target: TargetLaw, coins: Coins) -> list[int]:
    """Return a path of guesses that stand, and one token: at each row the first of its draws that its coin takes."""
    if len(draft.draws) != len(draft) + 1:
        raise ConfigError(
            f"drafter {draft.source} names the draws of {len(draft.draws)} rows, where k-seq needs those of all "
            f"{len(draft) + 1}; choose the rule rejection or match"
        )
    accepted: list[int] = []
    row: int | None = 0
    while row is not None:
        p = target(row, accepted)
        draws = draft.draws[row]
        row, p = _first_taken(draft, draws, p, law_of_guesses(draft, row, len(p)), coins) if draws else (None, p)
        accepted.append(coins.draw(p) if row is None else draft.token_ids[row - 1])
    return accepted


def _first_taken(draft: Draft, draws: Sequence[int], p: Law, q: Law, coins: Coins) -> tuple[int | None, Law]:
    """Return the row of the first draw that is taken, or None and the law of the token to draw instead."""
    rho, residual = selection(p, q, len(draws))
    for row in draws:
        guess = draft.token_ids[row - 1]
        if q[guess] > 0 and coins.flip(float(p[guess]) / (rho * float(q[guess]))):
            return row, residual
    return None, residual


def selection(p: Law, q: Law, k: int) -> tuple[float, Law]:
    """Return rho and the residual law: the first of k draws x from q is taken with chance p(x) / (rho q(x)).

    beta is the chance that one draw is taken, tries how many are looked at on average. The rule is exact for any rho
    that is at least tries, and takes most at the least of them.
    """
    both = np.flatnonzero((p > 0) & (q > 0))
    p_both, q_both = p[both], q[both]

    def tries(rho: float) -> float:
        beta = min(1.0, float(np.minimum(q_both, p_both / rho).sum()))
        return sum((1.0 - beta) ** before for before in range(k))

    rho = _least_rho(tries, k)
    return rho, excess(p, np.minimum(q, p / rho) * tries(rho))


def _least_rho(tries: Callable[[float], float], k: int) -> float:
    """Return the least rho in 1..k with tries(rho) <= rho, or a little more: bisection keeps the upper end."""
    low, high = 1.0, float(k)
    if tries(low) <= low:
        return low
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if tries(middle) <= middle else (middle, high)
    return high

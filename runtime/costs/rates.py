"""How many tokens a second guesses promise: in a chain that is verified at once, or leaving at an exit."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

__all__ = ["MIN_GAIN", "TIMES_MEMORY", "Plan", "best_length", "best_speed_up", "speed_up", "tokens_per_s", "usual_s"]

# What promises less than so many times plain decoding is not used.
MIN_GAIN = 1.03
TIMES_MEMORY = 0.95


class Plan(NamedTuple):
    """How many guesses to make in a round, and the expected tokens per second of that."""

    length: int
    rate: float


def speed_up(agreement: float, length: int, guess_cost: float, verify_cost: float) -> float:
    """Return how many tokens come in the time of a plain step, when each guess stands with the chance `agreement`.

    `guess_cost` is that of one of the `length` guesses, `verify_cost` that of the call that verifies them, as shares of
    a plain step. E / (d c_d + c_v) with E = 1 + a + ... + a**d.
    """
    expected = sum(agreement**num for num in range(length + 1))
    return expected / (length * guess_cost + verify_cost)


def best_speed_up(agreement: float, guess_cost: float, verify_costs: SequenceOf[float]) -> tuple[float, int]:
    """Return the best speed-up of drafts of 1 to len(`verify_costs`) guesses, and their length."""
    return max(
        (speed_up(agreement, length, guess_cost, cost), length) for length, cost in enumerate(verify_costs, start=1)
    )


def usual_s(before: float, spent_s: float) -> float:
    """Return what something usually takes, given what was so far believed, 0 for nothing, and one more time.

    A shorter time is believed at once: the first call of a shape takes longer, and what others on the machine take is
    not its own. Longer ones count little by little.
    """
    return spent_s if not before or spent_s < before else before + (spent_s - before) * (1 - TIMES_MEMORY)


def best_length(chance: float, guess_s: float, verify_s: SequenceOf[float]) -> Plan:
    """Return the draft length with the most expected tokens per second, and that rate.

    `chance` is that of a guess to stand, `guess_s` its price, `verify_s[d]` the call that verifies d of them. The
    expected tokens are g(0) = 1, g(d) = 1 + chance * g(d - 1).
    Source: DEL (Zarch et al., 2025), its objective in seconds in place of layers.
    """
    expected, best, rate = 1.0, 0, 1.0 / verify_s[0]
    for length in range(1, len(verify_s)):
        expected = 1.0 + chance * expected
        new = expected / (length * guess_s + verify_s[length])
        if new > rate:
            best, rate = length, new
    return Plan(best, rate)


def tokens_per_s(share: float, leave_s: float, late_s: SequenceOf[float], *, stay_s: float | None = None) -> float:
    """Return the expected tokens per second when each token leaves with the chance `share`.

    `leave_s` is the call up to the exit for a token that leaves, `stay_s` for one that does not; None is the same.
    `late_s[n]` is the call that catches up after n tokens have left; the last of them comes whether or not a token
    would leave. A round ends with such a call: n tokens leave before it with the chance share**n * (1 - share), as many
    as may with the rest.
    """
    last_s = leave_s if stay_s is None else stay_s
    expected_tokens = expected_s = 0.0
    most = len(late_s) - 1
    for num_left, late in enumerate(late_s):
        chance = share**num_left * (1.0 if num_left == most else 1.0 - share)
        expected_tokens += chance * (num_left + 1)
        expected_s += chance * (num_left * leave_s + last_s + late)
    return expected_tokens / expected_s

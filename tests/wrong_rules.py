"""Rules of verification with a mistake in them, so that a test can show that it would see it."""

from __future__ import annotations

import pytest

from skipstone.runtime.decoding.verify import Coins, chance, kseq, rejection

MISTAKES = {
    "draws from the model after a rejection": (
        (rejection, kseq),
        "excess",
        lambda weights, taken: weights / weights.sum(),
    ),
    "keeps the law of a rejected sibling": ((rejection,), "without", lambda q, guess: q),
    "coins fall as in the last round": ((chance,), "Coins", lambda seed, position: Coins(seed, 0)),
}


def make_mistake(patch: pytest.MonkeyPatch, mistake: str) -> None:
    modules, name, wrong = MISTAKES[mistake]
    for module in modules:
        patch.setattr(module, name, wrong)

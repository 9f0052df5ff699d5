"""Texts that tests read."""

from __future__ import annotations

import numpy as np


def words(seed: int = 0, count: int = 600) -> str:
    chosen = np.random.default_rng(seed).choice(["def", "add", "self", "tokens", "(", "):", "\n", "fox"], size=count)
    return " ".join(chosen)

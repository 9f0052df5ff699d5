"""What fewer active experts may cost: nats per token against all of them, or milliseconds a token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from skipstone.errors import ConfigError

__all__ = ["ActiveBudget"]


@dataclass(frozen=True, slots=True)
class ActiveBudget:
    """At most so much `kl` in nats per token, or so many `ms` for a token of plain text."""

    amount: float
    unit: Literal["kl", "ms"]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the budget in a text like kl:0.1 or 8ms. Raises: ConfigError."""
        stripped = text.strip().lower()
        kl, ms = re.fullmatch(r"kl:(\d*\.?\d+)", stripped), re.fullmatch(r"(\d*\.?\d+) ?ms", stripped)
        match = kl or ms
        if match is None or not float(match[1]):
            raise ConfigError(f"--budget takes a KL or milliseconds, like kl:0.1 or 8ms, not '{text}'")
        return cls(float(match[1]), "kl" if kl else "ms")

    def __str__(self) -> str:
        return f"kl:{self.amount:g}" if self.unit == "kl" else f"{self.amount:g}ms"

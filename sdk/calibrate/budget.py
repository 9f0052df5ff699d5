"""What a bundle may cost: bits per weight, megabytes, or milliseconds of a decode step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from skipstone.errors import ConfigError

__all__ = ["Budget"]

_UNITS: Final = ("bits", "MB", "ms")


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of `bits` for each weight of a matrix, of `MB` (10^6 bytes) of the bundle, or of `ms` for a token."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the budget in a text like 4.5bits, 100MB or 8ms. Raises: ConfigError."""
        match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text.strip(), re.IGNORECASE)
        if match is None or not float(match[1]):
            raise ConfigError(
                f"--budget takes bits per weight, megabytes or milliseconds, like 4.5bits, 100MB or 8ms, not '{text}'"
            )
        unit = next(unit for unit in _UNITS if unit.lower() == match[2].lower())
        return cls(float(match[1]), unit)

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"

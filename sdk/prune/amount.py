"""How much of a model an export leaves out, and of what: layers, blocks or FFN channels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from skipstone.errors import ConfigError

__all__ = ["Amount"]

_SPELLINGS: Final = re.compile(
    r"(?P<layers>\d+) ?layers?|(?P<share>\d+) ?%|blocks:(?P<blocks>\d+)(?P<percent>%?)|width:(?P<width>\d+)%"
)
_MOST_WIDTH: Final = 90


@dataclass(frozen=True, slots=True)
class Amount:
    """A `number` of what is left out, of `kind` `layers`, `blocks` or `width`; a percentage where `is_share`."""

    text: str
    kind: str
    number: int
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `2layers`, `20%` of the layers, `blocks:4`, `blocks:10%` or `width:25%` means.

        Raises: ConfigError for other words, and for a width of nothing or nearly all.
        """
        if (match := _SPELLINGS.fullmatch(text.strip())) is None:
            raise ConfigError(f"--prune takes an amount such as 2layers, 20%, blocks:4 or width:25%, not '{text}'")
        groups = {name: value for name, value in match.groupdict().items() if value and name != "percent"}
        ((name, number),) = groups.items()
        kind = "layers" if name == "share" else name
        amount = cls(text.strip(), kind, int(number), name in ("share", "width") or match["percent"] == "%")
        if kind == "width" and not 1 <= amount.number <= _MOST_WIDTH:
            raise ConfigError(f"--prune {text}: 1 to {_MOST_WIDTH} % of the FFN channels can be left out")
        return amount

    def count(self, num_layers: int) -> int:
        """Return how many layers, or blocks, of a model are left out.

        Raises: ConfigError where the first and last layer would not stay.
        """
        each = 2 if self.kind == "blocks" else 1
        total, most = each * num_layers, each * (num_layers - 2)
        count = max(1, round(self.number * total / 100)) if self.is_share else self.number
        if self.number == 0 or count > most:
            possible = f"1 to {most} can be left out" if most > 0 else "none can be left out"
            raise ConfigError(f"--prune {self.text} of {total} {self.kind}: {possible}, as the first and the last stay")
        return count

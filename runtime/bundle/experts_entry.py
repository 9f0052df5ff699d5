"""What the manifest says of dense FFNs that were carved into experts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from skipstone.errors import BundleError

__all__ = ["ExpertLevel", "ExpertsEntry"]

_SHARE = "[01](\\.[0-9]{1,4})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLevel:
    """How many experts of each layer are active, shared ones with them; `kl` is what that costs, None where unknown.

    KL(all experts || these) in nats per token, on text that was held back.
    """

    active: tuple[int, ...]
    kl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsEntry:
    """Of the `num_experts` of each layer, `num_shared` are always active, and at each level some of the others.

    `levels` are by their share of active experts, written as a number such as 0.5; `default` is one of them. A layer
    that is not carved has no effect on its number.
    Raises: BundleError for numbers that cannot be.
    """

    num_experts: int
    num_shared: int
    levels: Mapping[str, ExpertLevel]
    default: str

    def __post_init__(self) -> None:
        if not 0 < self.num_shared < self.num_experts:
            raise BundleError(f"experts: {self.num_shared} of {self.num_experts} cannot be always active")
        if self.default not in self.levels:
            raise BundleError(f"experts: the default {self.default!r} is none of the levels {list(self.levels)}")
        for share, level in self.levels.items():
            if not re.fullmatch(_SHARE, share) or not 0 < float(share) <= 1:
                raise BundleError(f"experts: the level {share!r} is no share of active experts, such as 0.5")
            for count in level.active:
                if not self.num_shared < count <= self.num_experts:
                    raise BundleError(
                        f"experts: at level {share} {count} experts are active, "
                        f"{self.num_shared + 1} to {self.num_experts} can be"
                    )
            if level.kl is not None and not 0 <= level.kl < math.inf:
                raise BundleError(f"experts: the KL of level {share} must be a number from 0 on, found {level.kl}")

    def check_layers(self, num_layers: int) -> None:
        """Raise BundleError unless each level has a number for each layer."""
        for share, level in self.levels.items():
            if len(level.active) != num_layers:
                raise BundleError(f"experts: level {share} is for {len(level.active)} layers, {num_layers} wanted")

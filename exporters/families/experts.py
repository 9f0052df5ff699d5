"""What a mixture of experts is: how many, how they are chosen, and how their outputs are weighed."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.errors import CheckpointError

__all__ = ["Experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Which layers have experts, and how tokens are routed: softmax over all, then the `num_active` largest.

    `normalized`: the weights of the active ones sum to 1. `layers` has one entry per layer: whether its FFN is a
    mixture. Raises: CheckpointError for numbers that cannot be.
    """

    num_experts: int
    num_active: int
    intermediate_size: int
    normalized: bool
    layers: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.num_active <= self.num_experts:
            raise CheckpointError(
                f"{self.num_active} of {self.num_experts} experts cannot be active: check the numbers in config.json"
            )
        if self.intermediate_size < 1:
            raise CheckpointError(
                f"the inner size of an expert must be positive, found {self.intermediate_size}: check config.json"
            )

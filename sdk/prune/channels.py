"""Groups of FFN channels, strongest first: what a pruning of widths leaves out as a whole.

Shapes: I inner width of a layer, G groups of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "ChannelGroups"]

Doubles: TypeAlias = NDArray[np.float64]
GROUP: Final = 32  # channels, so that blocks of weights stay whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroups:
    """The channels that are there, in groups: `members` [G], the layer [G] of each, and its share of the stream [G].

    The strongest group of a layer always stays, and is not among them. What a width has beside whole groups is the
    weakest group, so that the first to go leaves a multiple of 32.
    """

    members: tuple[NDArray[np.int64], ...]
    layers: NDArray[np.int64]
    guesses: Doubles

    @classmethod
    def of(cls, energies: Sequence[Doubles], alive: Sequence[NDArray[np.bool_]]) -> Self:
        """Return the groups of channels that are alive, by the energy that each adds to the stream, [I] by layer."""
        members, layers, guesses = list[NDArray[np.int64]](), list[int](), list[float]()
        for layer, (energy, there) in enumerate(zip(energies, alive, strict=True)):
            channels = np.flatnonzero(there)
            channels = channels[np.argsort(-energy[channels], kind="stable")]
            for start in range(GROUP, len(channels), GROUP):
                group = channels[start : start + GROUP]
                members.append(group)
                layers.append(layer)
                guesses.append(float(energy[group].sum()))
        return cls(members=tuple(members), layers=np.array(layers, np.int64), guesses=np.array(guesses))

    def weakest(self, num_channels: int) -> NDArray[np.int64]:
        """Return the groups that add least, with so many channels together or a few more."""
        return self.cheapest(self.guesses, num_channels)

    def cheapest(self, costs: Doubles, num_channels: int) -> NDArray[np.int64]:
        """Return the groups with the least cost by channel, with so many channels together or a few more."""
        sizes = np.array([len(group) for group in self.members])
        order = np.argsort(costs / sizes, kind="stable")
        count = int(np.searchsorted(np.cumsum(sizes[order]), num_channels)) + 1
        return order[:count]

    def without(self, alive: Sequence[NDArray[np.bool_]], groups: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
        """Return which channels are there when some groups are not."""
        left = [there.copy() for there in alive]
        for group in groups:
            left[self.layers[group]][self.members[group]] = False
        return left

"""Where a pass that measures sensitivities is, in a form that a work folder keeps.

Shapes: S streams, W and B windows, T tokens of each, E hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.options import MENU, Sensitive, StoredOption

__all__ = ["Place"]

Floats: TypeAlias = NDArray[np.float32]


@dataclass(slots=True)
class Place:
    """Invariant: `streams` [S * B, T, E] are where the pass is, the original's first; `owners` are the shares [S - 1]
    of the KL of each other stream, by matrix. `states` [W, T, E] are the original's on more windows; `found` is what
    is known of each matrix so far."""

    states: Floats
    streams: Floats
    owners: list[Mapping[str, float]] = field(default_factory=list)
    found: dict[str, Sensitive] = field(default_factory=dict)

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it as arrays."""
        found = {
            name: [matrix.kl, [[option.num_bytes, option.error] for option in matrix.options]]
            for name, matrix in self.found.items()
        }
        notes = json.dumps([self.owners, found]).encode()
        return {"states": self.states, "streams": self.streams, "notes": np.frombuffer(notes, np.uint8)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return what `arrays` were made of."""
        owners, found = json.loads(arrays["notes"].tobytes())
        return cls(arrays["states"], arrays["streams"], owners, {name: _sensitive(*one) for name, one in found.items()})


def _sensitive(kl: float, options: list[list[float]]) -> Sensitive:
    return Sensitive(
        kl,
        [
            StoredOption(rule=rule, num_bytes=num_bytes, error=error)
            for rule, (num_bytes, error) in zip(MENU, options, strict=True)
        ],
    )

"""The losses of rounds that an interrupted search has finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from skipstone.bundled import cache_folder
from skipstone.calibrate import Windows

__all__ = ["KnownLosses"]


class KnownLosses:
    """Losses by round, kept in a file as soon as they are known: a search that begins again takes them from there."""

    def __init__(self, digest: bytes, windows: Windows, amount: str, seed: int) -> None:
        key = hashlib.sha256(digest + windows.calibrate.tobytes())
        key.update(f"{amount} {seed} {version('skipstone')}".encode())
        self._file = cache_folder() / "prunings" / f"{key.hexdigest()[:16]}.json"
        is_there = self._file.is_file()
        self._losses: dict[str, list[float]] = json.loads(self._file.read_text(encoding="utf-8")) if is_there else {}

    def losses(self, number: int, measure: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the losses of a round, measured where they are not known."""
        if str(number) not in self._losses:
            self._losses[str(number)] = measure().tolist()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(self._losses), encoding="utf-8")
            part.replace(self._file)
        return np.array(self._losses[str(number)])

    def forget(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)

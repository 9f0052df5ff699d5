"""What a search has measured so far, kept in a file: one that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from importlib.metadata import version
from pathlib import Path

from skipstone.activate.reader import Counts
from skipstone.bundled import cache_folder
from skipstone.runtime.bundle import Manifest

__all__ = ["KnownLosses"]


class KnownLosses:
    """The KL of counts along the first windows, measured once. Invariant: what the file holds was measured so."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._losses: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @classmethod
    def of(cls, manifest: Manifest, windows: SequenceOf[SequenceOf[int]]) -> KnownLosses:
        """Return those of a bundle and a text."""
        what = [manifest.files["weights.bin"].sha256, manifest.recipe, windows, version("skipstone")]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return cls(cache_folder() / "active" / f"{key[:16]}.json")

    def kl(self, counts: Counts, num_windows: int, measure: Callable[[Counts, int], float]) -> float:
        """Return the KL of counts, measured where it is not known."""
        name = f"{num_windows}:{','.join(map(str, counts))}"
        if name not in self._losses:
            self._losses[name] = measure(counts, num_windows)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(self._losses), encoding="utf-8")
            part.replace(self._file)
        return self._losses[name]

    def forget(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)

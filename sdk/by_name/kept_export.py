"""What is kept of models that were run by name: a bundle, and beside it a note of what it was made of.

A bundle lies in `exports/NAME-KEY`, where the key is of the checkpoint's content and of the options; `NAME-KEY.json`
says whence it is. A checkpoint whose files have the sizes and times that stand there is not read again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from skipstone.bundled import cache_folder
from skipstone.by_name.turns import lock_of
from skipstone.errors import BundleError, OutputError

__all__ = ["Files", "KeptExport", "exports_folder", "kept_exports"]

Files: TypeAlias = Mapping[str, tuple[int, int, int]]
"""Size in bytes, time of change in ns and number of each file of a checkpoint, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptExport:
    """What a kept bundle was made of.

    `sources` are the places where that content lay, each with its files; those of a hub id are not looked at again.
    `precision` and `revision` are what was asked for, empty for what is usual; `commit` is the hub's.
    """

    sources: Mapping[str, Files]
    digest: str
    version: str
    path: Path
    precision: str = ""
    revision: str = ""
    commit: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def source(self) -> str:
        """Where the content lay when it was run last."""
        return [*self.sources][-1]

    @property
    def asked(self) -> str:
        """The name that runs it: its source, revision and precision."""
        revision, precision = self.revision and f"@{self.revision}", self.precision and f":{self.precision}"
        return f"{self.source}{revision}{precision}"

    @property
    def note(self) -> Path:
        """The file that says all this; its time is that of the last use."""
        return self.path.with_name(f"{self.name}.json")

    @property
    def last_used(self) -> float:
        """When it was last run, in seconds since 1970; 0 where nobody knows."""
        try:
            return self.note.stat().st_mtime
        except OSError:
            return 0.0

    def write(self) -> None:
        """Write the note. Raises: OutputError."""
        told = {name: value for name, value in asdict(self).items() if name != "path"}
        partial = self.note.with_suffix(f".partial-{os.getpid()}")
        try:
            partial.write_text(json.dumps(told, indent=1), encoding="utf-8")
            partial.replace(self.note)
        except OSError as error:
            raise OutputError(f"{self.note} cannot be written: {error.strerror}") from error

    def used(self) -> None:
        """Remember that it was run now."""
        with suppress(OSError):  # a folder that is only read
            os.utime(self.note)

    def opens(self) -> bool:
        """Whether the bundle is there and its files are those of its manifest."""
        from skipstone.runtime.bundle import Bundle

        try:
            Bundle.open(self.path)
        except BundleError:
            return False
        return True

    def remove(self) -> None:
        """Delete the bundle and its note. Raises: OutputError."""
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.note.unlink(missing_ok=True)
            lock_of(self.path).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be removed: {error.strerror}") from error


def exports_folder() -> Path:
    """Return the folder of all kept exports."""
    return cache_folder() / "exports"


def kept_exports() -> list[KeptExport]:
    """Return all kept exports, the last used first; a note that cannot be read counts as none."""
    kept = [export for note in exports_folder().glob("*.json") if (export := _read(note)) is not None]
    return sorted(kept, key=lambda export: export.last_used, reverse=True)


def _read(note: Path) -> KeptExport | None:
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        sources = {str(source): _files(files) for source, files in told["sources"].items()}
        names = ("digest", "version", "precision", "revision", "commit")
        kept = KeptExport(sources=sources, path=note.with_suffix(""), **{name: str(told[name]) for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return kept if sources else None


def _files(told: Any) -> Files:
    return {str(name): (int(size), int(when), int(number)) for name, (size, when, number) in told.items()}

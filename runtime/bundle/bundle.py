"""The folder of a bundle: opened with its sizes checked, written so that it appears whole or not at all.

Beside a bundle NAME, an export works in `.NAME.partial-PID`; where two folders cannot be swapped in one step, the old
bundle waits in `.NAME.old-PID` while the new one takes its place. A folder of either kind that stands there without a
living export is what a crash left: see `mend`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skipstone.errors import BundleError
from skipstone.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from skipstone.runtime.bundle.typed_json import format_of, parse_json

__all__ = ["Bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle on disk: its folder and what its manifest says. Only read; nothing here changes a file of it."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Return the bundle in folder `path`; every file is there in its size. See `verify` for the contents.

        Raises: BundleError when it is not a bundle, or not a whole one, or one of a newer version.
        """
        folder = Path(path)
        try:
            mend(Path(os.path.realpath(folder)))
            bundle = cls(path=folder, manifest=_read_manifest(folder))
            bundle._check_sizes()
        except OSError as error:
            raise BundleError(f"{folder} cannot be read: {error.strerror} ({error.filename})") from error
        return bundle

    def _check_sizes(self) -> None:
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{self.path}: {name} is missing; copy or export the bundle again")
            if (size := file.stat().st_size) != entry.size:
                wanted = f"{entry.size} wanted; copy or export the bundle again"
                raise BundleError(f"{self.path}: {name} has {size} bytes, {wanted}")

    @property
    def stored_format(self) -> int:
        """The format of the manifest on the disk; `manifest` has an older one as today's has it."""
        return format_of(parse_json((self.path / MANIFEST_NAME).read_bytes()))

    def open_draft_model(self) -> Bundle | None:
        """Return the bundle of the draft model, None when this one carries none. Raises: BundleError."""
        folder = self.manifest.draft_model
        return None if folder is None else Bundle.open(self.path / folder)

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Compare the sha256 of every file with the manifest; `progress` gets the bytes of each file after it is read.

        Cost: reads the whole bundle. Raises: BundleError with the name of every file that was altered.
        """
        altered = []
        for name, entry in self.manifest.files.items():
            try:
                if _sha256(self.path / name) != entry.sha256:
                    altered.append(name)
            except OSError as error:
                raise BundleError(f"{self.path}: {name} cannot be read: {error.strerror}") from error
            if progress is not None:
                progress(entry.size)
        if altered:
            raise BundleError(f"{self.path}: {', '.join(altered)} altered; copy or export the bundle again")


def mend(target: Path) -> None:
    """Remove what dead exports left beside `target`; put the old bundle back where one died while replacing it."""
    for pid in _leftovers(target, "partial"):
        _remove_abandoned(_hidden(target, "partial", pid))
    for pid in _leftovers(target, "old"):
        old, partial = _hidden(target, "old", pid), _hidden(target, "partial", pid)
        if partial.exists():
            continue  # its export lives and is about to move it
        with contextlib.suppress(OSError):  # another process mends too, or the folder is not ours to change
            if not os.path.lexists(target):
                old.rename(target)
            else:
                old.rename(partial)  # so that a folder named old is always whole
                _remove(partial)


def _hidden(target: Path, kind: str, pid: int) -> Path:
    return target.parent / f".{target.name}.{kind}-{pid}"


def _leftovers(target: Path, kind: str) -> list[int]:
    """Return the process ids in the names of the hidden folders of `kind`."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{kind}-(\d+)")
    try:
        matches = [pattern.fullmatch(path.name) for path in target.parent.iterdir()]
    except OSError:
        return []  # no such folder, or not ours to list and so not ours to mend
    return [int(match[1]) for match in matches if match]


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the lock of `folder` until it is closed, or None where folders have no locks.

    The system drops the lock when the process dies, whatever killed it: unlike a process id, it is never reused.
    Raises: BlockingIOError while another holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _remove_abandoned(partial: Path) -> None:
    try:
        lock = _lock(partial)
    except OSError:
        return  # its export lives, or the folder is gone or not ours
    if lock is not None:
        _remove(partial)
        os.close(lock)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what resists now is tried again by the next `mend`


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST_NAME
    if folder.is_file() and _begins_as_gguf(folder):
        raise BundleError(f"{folder} is a GGUF file, not a bundle: run `skipstone export` on it first")
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: a bundle is one, made by `skipstone export`")
    if not file.is_file() and (folder / "config.json").is_file():
        raise BundleError(f"{folder} is a checkpoint, not a bundle: run `skipstone export` on it first")
    if not file.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}")
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except (BundleError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: {error}") from error


def _begins_as_gguf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The folder of a bundle: opened with its sizes checked, written so that it appears whole or not at all.

Beside a bundle NAME, an export works in `.NAME.partial-PID`; where two folders cannot be swapped in one step, the old
bundle waits in `.NAME.old-PID` while the new one takes its place. A folder of either kind that stands there without a
living export is what a crash left: see `mend`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from skipstone.errors import BundleError, OutputError
from skipstone.runtime.manifest import MANIFEST_NAME, FileEntry, Manifest

__all__ = ["Bundle", "BundleWriter", "write_manifest"]

AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the working folder
RENAME_EXCHANGE = 2  # linux/fs.h


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

    def open_drafter(self) -> Bundle | None:
        """Return the bundle of the draft model, None when this one carries none. Raises: BundleError."""
        folder = self.manifest.drafter
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


class BundleWriter:
    """Write a bundle in a hidden folder beside `target`, and let it appear by one rename.

    Use as a context manager: put the files in `path`, then call `finish`. Left without `finish`, by an error or not, it
    removes `path`, and `target` stays as it was. Invariant: `target`, where it exists, is whole at every moment.
    Raises: OutputError at once when `target` exists without `force`, or holds a file that is not of a bundle and would
    be lost; later whenever the place cannot be written.
    """

    def __init__(self, target: Path, force: bool) -> None:
        self.target = Path(os.path.realpath(target))
        self.path = _hidden(self.target, "partial", os.getpid())
        self._force = force
        self._lock: int | None = None
        try:
            mend(self.target)
            self._check_target()
        except OSError as error:
            raise self._output_error(error) from error

    def __enter__(self) -> BundleWriter:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise self._output_error(error) from error
        except KeyboardInterrupt:  # `__exit__` does not run when `__enter__` does not return
            _remove(self.path)
            raise
        return self

    def finish(self, make_manifest: Callable[[Mapping[str, FileEntry]], Manifest]) -> Bundle:
        """Hash the files in `path`, write the manifest that `make_manifest` gives for them, and show all as `target`.

        Returns the new bundle. Cost: reads every file once and waits until the disk has them.
        """
        manifest = write_manifest(self.path, make_manifest)
        _sync([*self.path.rglob("*"), self.path])
        self._check_target()
        if os.path.lexists(self.target):
            _replace(self.target, self.path)
        else:
            self.path.rename(self.target)
        _sync([self.target.parent])
        return Bundle(path=self.target, manifest=manifest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _remove(self.path)  # the unfinished bundle, or by now the one that was replaced
        if self._lock is not None:
            os.close(self._lock)
        mend(self.target)
        if isinstance(error, OSError) and self._comes_from_writing(error):
            raise self._output_error(error) from error

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self._force:
            raise OutputError(f"{self.target} exists: pass --force to replace it")
        if not self.target.is_dir():
            raise OutputError(f"{self.target} is a file, and only a bundle can be replaced: choose another place")
        if strangers := _strangers(self.target):
            raise OutputError(
                f"{self.target} holds files that are not of a bundle ({', '.join(strangers[:3])}), and replacing it "
                "would delete them: move them away or choose another place"
            )

    def _claim(self) -> None:
        try:
            self.path.mkdir()
            self._lock = _lock(self.path)
        except (FileExistsError, BlockingIOError) as error:
            raise OutputError(
                f"{self.target} is being written by another export: wait for it, or remove {self.path} if there is none"
            ) from error

    def _comes_from_writing(self, error: OSError) -> bool:
        """Whether an error inside the `with` is about this place, not about the source that is read."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        file = Path(str(error.filename))
        return file.is_relative_to(self.path) or file.is_relative_to(self.target)

    def _output_error(self, error: OSError) -> OutputError:
        advice = "choose another place or change who may write there"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space or choose another place"
        return OutputError(f"{self.target} cannot be written: {error.strerror or error}: {advice}")


def write_manifest(folder: Path, make_manifest: Callable[[Mapping[str, FileEntry]], Manifest]) -> Manifest:
    """Hash the files in `folder`, write the manifest that `make_manifest` gives for them, and return it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    manifest = make_manifest({file.relative_to(folder).as_posix(): _entry(file) for file in files})
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


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


def _replace(target: Path, new: Path) -> None:
    """Put folder `new` in the place of `target` and the old one in that of `new`, in one step where that can be."""
    if _exchange(target, new):
        return
    old = _hidden(target, "old", os.getpid())
    target.rename(old)
    new.rename(target)
    old.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(first))


def _strangers(folder: Path) -> list[str]:
    """Return the files in `folder` that no manifest in it names."""
    try:
        known = {MANIFEST_NAME, *_read_manifest(folder).files}
    except BundleError:
        known = {MANIFEST_NAME}
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    return sorted(set(files) - known)


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST_NAME
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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _entry(file: Path) -> FileEntry:
    return FileEntry(size=file.stat().st_size, sha256=_sha256(file))


def _sync(paths: Iterable[Path]) -> None:
    """Wait until the disk has the files and folders, so that a power cut after the rename finds them whole."""
    if sys.platform == "win32":
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
                raise
        finally:
            os.close(descriptor)

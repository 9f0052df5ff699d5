"""A bundle appears whole or not at all: written in a hidden folder, then shown by one rename."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from skipstone.errors import BundleError, OutputError
from skipstone.runtime.bundle.bundle import Bundle, read_manifest
from skipstone.runtime.bundle.file_entry import FileEntry
from skipstone.runtime.bundle.file_hashes import entry_of
from skipstone.runtime.bundle.leftovers import hidden, lock_for_writing, mend, remove
from skipstone.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from skipstone.runtime.bundle.signature import SIGNATURE_NAME, SigningKey

__all__ = ["BundleWriter", "Check", "finish", "write_manifest"]

AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the working folder
RENAME_EXCHANGE = 2  # linux/fs.h


class BundleWriter:
    """Write a bundle in a hidden folder beside `target`, and let it appear by one rename.

    Use as a context manager: put the files in `path`, then call `finish`. Left without `finish`, by an error or not, it
    removes `path`, and `target` stays as it was. Invariant: `target`, where it exists, is whole at every moment.
    Raises: OutputError at once when `target` exists without `force`, or holds a file that is not of a bundle and would
    be lost; later whenever the place cannot be written.
    """

    def __init__(self, target: Path, force: bool, *, sign: SigningKey | None = None) -> None:
        """The manifest is signed with the key `sign`, where one is given."""
        self._signing_key = sign
        self.target = Path(os.path.realpath(target))
        self.path = hidden(self.target, "partial", os.getpid())
        self._force = force
        self._lock: int | None = None
        self._is_shown = False
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
            remove(self.path)
            raise
        return self

    def finish(self, make_manifest: Callable[[Mapping[str, FileEntry]], Manifest]) -> Bundle:
        """Hash the files in `path`, write the manifest that `make_manifest` gives for them, and show all as `target`.

        Returns the new bundle. Cost: reads every file once and waits until the disk has them.
        """
        manifest = write_manifest(self.path, make_manifest)
        if self._signing_key is not None:
            signature = self._signing_key.sign((self.path / MANIFEST_NAME).read_bytes())
            (self.path / SIGNATURE_NAME).write_bytes(signature)
        _sync([*self.path.rglob("*"), self.path])
        self._check_target()
        if os.path.lexists(self.target):
            _replace(self.target, self.path)
        else:
            self.path.rename(self.target)
        self._is_shown, has_locks = True, self._lock is not None
        self._unlock()  # the lock went with the folder, which all may read now
        self._let_go_of_old(has_locks)
        _sync([self.target.parent])
        return Bundle(path=self.target, manifest=manifest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_shown:
            remove(self.path)
        self._unlock()
        mend(self.target)
        if isinstance(error, OSError) and self._comes_from_writing(error):
            raise self._output_error(error) from error

    def _let_go_of_old(self, has_locks: bool) -> None:
        """Leave the bundle that was replaced to `mend`, which removes it when no model reads it any more."""
        if not has_locks:
            remove(self.path)
        elif self.path.exists():
            self.path.rename(hidden(self.target, "partial", time.time_ns()))  # the next export here needs the name

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
            self._lock = lock_for_writing(self.path)
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
    manifest = make_manifest({file.relative_to(folder).as_posix(): entry_of(file) for file in files})
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _replace(target: Path, new: Path) -> None:
    """Put folder `new` in the place of `target` and the old one in that of `new`, in one step where that can be."""
    if _exchange(target, new):
        return
    old = hidden(target, "old", os.getpid())
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
        known = {MANIFEST_NAME, SIGNATURE_NAME, *read_manifest(folder).files}
    except BundleError:
        known = {MANIFEST_NAME, SIGNATURE_NAME}
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    return sorted(set(files) - known)


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


Figures: TypeAlias = Mapping[str, object]
Check: TypeAlias = Callable[[Path], Figures]
"""The folder of a whole bundle to what was found; raises where the bundle is not right."""


def finish(
    writer: BundleWriter,
    make_manifest: Callable[[Mapping[str, FileEntry], Figures | None], Manifest],
    check: Check | None,
) -> None:
    """Show the bundle whose files are written, with what `check` found in its manifest; nothing appears if it raises.

    `make_manifest` gets the files and the figures, None for none. Raises: OutputError, and what `check` raises.
    """
    figures = None
    if check is not None:
        write_manifest(writer.path, lambda files: make_manifest(files, None))
        figures = check(writer.path)
        (writer.path / MANIFEST_NAME).unlink()
    writer.finish(lambda files: make_manifest(files, figures))

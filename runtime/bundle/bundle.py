"""The folder of a bundle, opened: its files are there in their sizes, unaltered as far as a quick look tells."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.errors import BundleError, SkipstoneError
from skipstone.runtime.bundle.beside import beside
from skipstone.runtime.bundle.file_entry import FileEntry
from skipstone.runtime.bundle.file_hashes import is_altered, sha256_of
from skipstone.runtime.bundle.held_folder import HeldFolder
from skipstone.runtime.bundle.leftovers import is_own, mend
from skipstone.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from skipstone.runtime.bundle.signature import require_trusted, trusted_paths
from skipstone.runtime.bundle.typed_json import format_of, parse_json

__all__ = ["Bundle", "read_manifest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle on disk: its folder and what its manifest says. Only read; nothing here changes a file of it.

    `folder` is held as it was opened, so that its files stay when an export takes the place of the bundle; None for a
    bundle that was only just written. Only files that the manifest lists are read.
    """

    path: Path
    manifest: Manifest
    folder: HeldFolder | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Return the bundle in folder `path`, held. See `verify` for what is not compared here.

        Every file is there in its size; those up to 2 MiB have the sha256 that the manifest says, and so have a few
        blocks of each larger one. Where SKIPSTONE_TRUST names keys, one of them has signed the manifest, and all files
        are compared whole. Raises: BundleError when it is not a bundle, or not a whole one, or one of a newer version,
        or altered, or not signed; ConfigError for keys that cannot be read.
        """
        with cls.opening(path) as bundle:
            return bundle

    @classmethod
    @contextmanager
    def opening(cls, path: str | os.PathLike[str]) -> Iterator[Bundle]:
        """Give the bundle in folder `path`, held, to be loaded while its files are compared, as `open` does it.

        They are compared in a thread, whose error is raised at the end. Where keys are trusted, all is compared before.
        Raises: as `open`.
        """
        folder = Path(path)
        try:
            mend(Path(os.path.realpath(folder)))
            _require_folder(folder)
            bundle = cls._held(folder, HeldFolder(folder))
            if keys := () if is_own(folder) else trusted_paths():
                with bundle.named_in_errors():
                    require_trusted(bundle.place, keys)
                bundle.verify()
        except OSError as error:
            raise BundleError(f"{folder} cannot be read: {error.strerror} ({_name_of(error)})") from error
        wait = beside(lambda: None if keys else bundle._refuse(bundle._altered(is_altered)))
        try:
            yield bundle
        finally:
            wait()

    @classmethod
    def _held(cls, path: Path, folder: HeldFolder) -> Bundle:
        """Return the bundle in a held folder, its files in their sizes."""
        bundle = cls(path=path, manifest=read_manifest(folder.place, shown=path), folder=folder)
        for name, entry in bundle.manifest.files.items():
            bundle._check_size(name, entry.size)
        return bundle

    def _check_size(self, name: str, size: int) -> None:
        try:
            found = self.file(name).stat()
        except FileNotFoundError:
            raise BundleError(f"{self.path}: {name} is missing; copy or export the bundle again") from None
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{self.path}: {name} is no regular file; copy or export the bundle again")
        if found.st_size != size:
            wanted = f"{size} wanted; copy or export the bundle again"
            raise BundleError(f"{self.path}: {name} has {found.st_size} bytes, {wanted}")

    def file(self, name: str) -> Path:
        """Return where a file of the bundle is to be read, whatever is called `path` by now."""
        return self.place / name

    @property
    def place(self) -> Path:
        """Where the files are; errors call it `path`, see `named_in_errors`."""
        return self.path if self.folder is None else self.folder.place

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Let errors inside name the bundle as the user does, not by the place where it is held."""
        try:
            yield
        except SkipstoneError as error:
            raise type(error)(str(error).replace(str(self.place), str(self.path))) from error

    @property
    def stored_format(self) -> int:
        """The format of the manifest on the disk; `manifest` has an older one as today's has it."""
        return format_of(parse_json(self.file(MANIFEST_NAME).read_bytes()))

    def open_draft_model(self) -> Bundle | None:
        """Return the bundle of the draft model, None when this one carries none. Raises: BundleError."""
        name = self.manifest.draft_model
        if name is None:
            return None
        if self.folder is None:
            return Bundle.open(self.path / name)
        _require_folder(self.file(name), shown=self.path / name)
        return Bundle._held(self.path / name, HeldFolder(self.path / name, within=self.folder))

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Compare the sha256 of every file with the manifest; `progress` gets the bytes of each file after it is read.

        Cost: reads the whole bundle. Raises: BundleError with the name of every file that was altered.
        """
        self._refuse(self._altered(lambda file, entry: sha256_of(file) != entry.sha256, progress))

    def _altered(
        self, differs: Callable[[Path, FileEntry], bool], progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Return the names of the files that differ from their entries."""
        altered = []
        for name, entry in self.manifest.files.items():
            try:
                if differs(self.file(name), entry):
                    altered.append(name)
            except OSError as error:
                raise BundleError(f"{self.path}: {name} cannot be read: {error.strerror}") from error
            if progress is not None:
                progress(entry.size)
        return altered

    def _refuse(self, altered: list[str]) -> None:
        if altered:
            raise BundleError(f"{self.path}: {', '.join(altered)} altered; copy or export the bundle again")


def _require_folder(folder: Path, *, shown: Path | None = None) -> None:
    """Raise BundleError for what is no folder of a bundle; errors call it `shown`."""
    if folder.is_file() and _begins_as_gguf(folder):
        raise BundleError(f"{shown or folder} is a GGUF file, not a bundle: run `skipstone export` on it first")
    if not folder.is_dir():
        raise BundleError(f"{shown or folder} is not a folder: a bundle is one, made by `skipstone export`")


def read_manifest(folder: Path, *, shown: Path | None = None) -> Manifest:
    """Return the manifest in a folder, which errors call `shown`. Raises: BundleError."""
    file, shown = folder / MANIFEST_NAME, shown or folder
    if not file.is_file() and (folder / "config.json").is_file():
        raise BundleError(f"{shown} is a checkpoint, not a bundle: run `skipstone export` on it first")
    if not file.is_file():
        raise BundleError(f"{shown} is not a bundle: it has no {MANIFEST_NAME}")
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except (BundleError, UnicodeDecodeError) as error:
        raise BundleError(f"{shown / MANIFEST_NAME}: {error}") from error


def _begins_as_gguf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _name_of(error: OSError) -> str:
    return Path(str(error.filename)).name

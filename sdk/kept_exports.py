"""Bundles made of checkpoints that were run by name: each is exported once, and kept in the user's cache.

A bundle lies in `exports/NAME-KEY`, where the key is of the checkpoint's content, and beside it `NAME-KEY.json` says
what it was made of. A checkpoint whose files have the sizes and times that stand there is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Final

from skipstone.bundled import BUNDLED, cache_folder
from skipstone.bundled_export import bundled_bundle
from skipstone.errors import BundleError, CheckpointError, OutputError
from skipstone.runtime.bundle import MANIFEST_NAME, Bundle
from skipstone.watcher import Watcher

__all__ = ["KeptExport", "exports_folder", "kept_exports", "resolve"]

CHUNK: Final = 1 << 20
GGUF: Final = b"GGUF"
TEMPLATES: Final = "additional_chat_templates"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptExport:
    """What a kept bundle was made of. `files` are the checkpoint's: size, time and number of each by its name."""

    source: str
    digest: str
    files: Mapping[str, tuple[int, int, int]]
    version: str
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

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
        except OSError as error:
            raise OutputError(f"{self.path} cannot be removed: {error.strerror}") from error


def exports_folder() -> Path:
    """Return the folder of all kept exports."""
    return cache_folder() / "exports"


def kept_exports() -> list[KeptExport]:
    """Return all kept exports, the last used first; a note that cannot be read counts as none."""
    kept = [found for note in exports_folder().glob("*.json") if (found := _read(note)) is not None]
    return sorted(kept, key=lambda export: export.last_used, reverse=True)


def _read(note: Path) -> KeptExport | None:
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        files = {str(name): (int(size), int(when), int(number)) for name, (size, when, number) in told["files"].items()}
        texts = {name: str(told[name]) for name in ("source", "digest", "version")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return KeptExport(**texts, files=files, path=note.with_suffix(""))


def resolve(model: str | Path, *, watcher: Watcher | None = None, command: str = "load") -> Path:
    """Return the bundle folder of a model by its name.

    That is a bundle folder, a bundled model such as `pebble`, or what is exported on first use, as `export` does it
    without options: the folder of a checkpoint, a GGUF file, or an id of the Hugging Face hub. `watcher` hears of that
    export. Raises: BundleError for what is none of them; CheckpointError, UnsupportedModel, OutputError.
    """
    name, path = str(model), Path(model)
    if name in BUNDLED:
        return bundled_bundle(name)
    if (path / MANIFEST_NAME).is_file():
        return path
    if path.exists():
        return _of_files(path, watcher or Watcher(), command) if _is_checkpoint(path) else path
    if not _may_be_hub_id(name):
        raise BundleError(_unknown(name))
    return _of_hub(name, watcher or Watcher(), command)


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return (path / "config.json").is_file()
    with suppress(OSError), path.open("rb") as file:
        return path.is_file() and file.read(len(GGUF)) == GGUF
    return False


def _may_be_hub_id(name: str) -> bool:
    """Whether a name that is no path may be one on the hub: owner/name, whose owner is no folder here."""
    owner, slash, _ = name.partition("/")
    if not slash or Path(owner).is_dir():
        return False
    from skipstone.exporters.checkpoints import is_hub_id

    return is_hub_id(name)


def _unknown(name: str) -> str:
    """Return in one line what could have been meant."""
    known = [*BUNDLED, *_beside(Path(name))]
    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"there is no {name} here: {meant}give a bundle folder, a checkpoint folder, a GGUF file, a hub id such as "
        "owner/name, or the word pebble"
    )


def _beside(path: Path) -> Iterator[str]:
    """Yield the paths of bundles and GGUF files in the folder where something was looked for."""
    with suppress(OSError):
        for found in path.parent.iterdir():
            if found.suffix.lower() == ".gguf" or (found / MANIFEST_NAME).is_file():
                yield str(found)


def _of_files(path: Path, watcher: Watcher, command: str) -> Path:
    """Return the kept bundle of a checkpoint in a folder, or of a GGUF file."""
    place = path.resolve()
    files = _stats(place)
    for kept in kept_exports():
        if kept.source == str(place) and kept.files == files and kept.version == version("skipstone") and kept.opens():
            kept.used()
            return kept.path
    return _exported(place.stem if place.is_file() else place.name, str(place), place, watcher, command, files=files)


def _of_hub(name: str, watcher: Watcher, command: str) -> Path:
    """Return the kept bundle of a model on the hub; once it is kept, the hub is not asked again."""
    for kept in kept_exports():
        if kept.source == name and kept.version == version("skipstone") and kept.opens():
            kept.used()
            return kept.path
    from skipstone.exporters.checkpoints import fetch

    watcher.remark(f"{name} is no folder here; it is fetched from the Hugging Face hub")
    try:
        place = fetch(name, None)
    except CheckpointError as error:
        raise CheckpointError(
            f"there is no folder {name} here, and {error}; with a folder or a file it is: skipstone {command} ./FOLDER"
        ) from error
    return _exported(name.replace("/", "--"), name, place, watcher, command, files={})


def _exported(
    label: str,
    source: str,
    place: Path,
    watcher: Watcher,
    command: str,
    *,
    files: Mapping[str, tuple[int, int, int]],
) -> Path:
    """Return the bundle of a checkpoint's content, which is exported if it is not there."""
    from skipstone.export_job import ExportJob

    digest = _digest(place)
    key = hashlib.sha256(f"{version('skipstone')} {digest}".encode()).hexdigest()[:12]
    path = exports_folder() / f"{_plain(label)}-{key}"
    kept = KeptExport(source=source, digest=digest, files=files, version=version("skipstone"), path=path)
    if kept.opens():
        kept.write()
        return path
    if path.exists():
        watcher.remark(f"{path} is damaged; it is made again")
        kept.remove()
    watcher.remark(f"{source} is exported once and kept; `skipstone cache` lists what is")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        job = ExportJob(checkpoint=source if not files else place, output=path, options={}, force=True)
        job.run(watcher, command=f"skipstone {command} {source}")
    except (OutputError, OSError) as error:
        if not kept.opens():  # else another process was quicker
            raise OutputError(f"{error}; SKIPSTONE_CACHE sets the folder of what is kept") from error
    kept.write()
    return path


def _plain(label: str) -> str:
    """Return a name that can be a folder's."""
    return (
        "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in label)[:80].strip(".") or "model"
    )


def _files(place: Path) -> Iterable[tuple[str, Path]]:
    """Return the names and paths of the files of a checkpoint."""
    if place.is_file():
        return [(place.name, place)]
    found = [path for folder in (place, place / TEMPLATES) if folder.is_dir() for path in folder.iterdir()]
    return sorted((str(path.relative_to(place)), path) for path in found if path.is_file() and path.name[0] != ".")


def _stats(place: Path) -> dict[str, tuple[int, int, int]]:
    """Return size, time of change and number of each file. Raises: CheckpointError."""
    try:
        told = {name: path.stat() for name, path in _files(place)}
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in told.items()}


def _digest(place: Path) -> str:
    """Return what stands for the content of a checkpoint. Raises: CheckpointError."""
    whole = hashlib.sha256()
    try:
        for name, path in _files(place):
            whole.update(f"{name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    whole.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{place} cannot be read: {error.strerror}") from error
    return whole.hexdigest()

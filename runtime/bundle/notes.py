"""What was found out about a bundle once, kept as a small file: costs, calibrations, layers to leave out.

All of them are kept in one folder, are read by one reader, and say what they were made for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from skipstone.errors import ConfigError
from skipstone.runtime.bundle.measuring import measuring
from skipstone.runtime.bundle.typed_json import DataError, format_of, parse_json, read_typed

__all__ = ["Note"]

T = TypeVar("T")
FORMAT_VERSION = 2
DAMAGED = ".damaged"


class _VersionError(DataError):
    """A file of another version, which may be whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A note as it stands in its file; `finding` are the fields of the note's dataclass."""

    format_version: int
    made_for: Mapping[str, object]
    finding: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Generic[T]):
    """A finding of one kind about one bundle: which file keeps it, what it is made for, and how it is read.

    `finding` is the dataclass of what was found. `name` begins the file's name; `key` ends it, plain data of all that
    the finding depends on. `made_for` is compared when a file is read: plain data by a word for each part. In messages
    `what` says what the file holds, and `command` is what makes it anew.
    """

    finding: type[T]
    name: str
    what: str
    command: str
    made_for: Mapping[str, Any]
    key: object

    def path(self, folder: Path) -> Path:
        """Return the file in `folder`."""
        key = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]
        return folder / f"{self.name}-{key}.json"

    def save(self, finding: T, path: Path) -> bool:
        """Write a finding, whole or not at all; return whether it could be written, which is no error if not."""
        content: Any = finding
        file = _File(format_version=FORMAT_VERSION, made_for=self.made_for, finding=asdict(content))
        partial = path.with_suffix(f".partial-{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps(asdict(file), indent=1) + "\n", encoding="utf-8")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            return True
        return False

    def read(self, path: Path) -> T:
        """Return what a file holds. Raises: ConfigError when it is damaged, of another version or of other weights."""
        try:
            file = _read_file(path.read_bytes())
            difference = _difference(file.made_for, json.loads(json.dumps(self.made_for)))
            finding = None if difference else read_typed(self.finding, file.finding, name="the finding")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; make it with {self.command}") from error
        except (DataError, RecursionError) as error:
            told = error if isinstance(error, DataError) else "it is nested too deep"
            raise ConfigError(f"{path} is no {self.what}: {told}; make it anew with {self.command}") from error
        if finding is None:
            raise ConfigError(f"{path} was made for {difference}; make one for this bundle with {self.command}")
        return finding

    def kept(self, folder: Path | None) -> T | None:
        """Return what `folder` keeps; None where it keeps nothing. Raises: ConfigError as `read` does."""
        with contextlib.suppress(OSError):  # a folder that cannot be read keeps nothing
            if folder is not None and self.path(folder).exists():
                return self.read(self.path(folder))
        return None

    def find(self, folder: Path | None) -> T | None:
        """Return what `folder` keeps; None where it keeps nothing that can be used.

        A damaged file is set aside, so that it is told of once; one that this version cannot know stays.
        """
        try:
            return self.kept(folder)
        except ConfigError as error:
            is_damaged = isinstance(error.__cause__, DataError | RecursionError)
            if folder is not None and is_damaged and not isinstance(error.__cause__, _VersionError):
                self._set_aside(self.path(folder), error)
        return None

    def _set_aside(self, path: Path, error: ConfigError) -> None:
        """Give a file that cannot be used another name, and say why."""
        aside, told = path.with_suffix(DAMAGED), str(error).partition("; ")[0]
        try:
            path.replace(aside)
        except OSError:  # it is told of again, as it stays
            aside = path
        warnings.warn(f"{told}; it is left out, and lies at {aside.name}", RuntimeWarning, stacklevel=4)

    def find_or_make(
        self, folder: Path | None, make: Callable[[], T], *, is_kept: Callable[[T], bool] = lambda finding: True
    ) -> T:
        """Return what `folder` keeps, else what `make` returns.

        That is kept from now on where it can be, and `is_kept` says so.
        """
        finding = self.find(folder)
        if finding is None:
            with measuring(self.what):
                finding = make()
            if folder is not None and is_kept(finding):
                self.save(finding, self.path(folder))
        return finding


def _read_file(content: bytes) -> _File:
    data = _upgraded(parse_json(content, finite=True))
    version = format_of(data)
    if version != FORMAT_VERSION:
        raise _VersionError(f"format {version} is of another version, this one reads {FORMAT_VERSION}")
    return read_typed(_File, data, name="the file")


def _upgraded(data: Any) -> Any:
    """Return a calibration of format 1 as of today: what it was made for stood among its fields."""
    if format_of(data) != 1:
        return data
    fields = {key: value for key, value in data.items() if key != "format_version"}
    made_for = fields.pop("bundle", None) or {key: fields.pop(key) for key in ("recipe", "weights") if key in fields}
    return {"format_version": FORMAT_VERSION, "made_for": made_for, "finding": fields}


def _difference(made: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return in words the first part for which a finding was not made here; None where all are the same."""
    for part, now in here.items():
        was = made.get(part)
        if was == now:
            continue
        if part == "recipe" and isinstance(was, dict) and was.get("name") != now.get("name"):
            return f"precision {was.get('name')}, the bundle has {now.get('name')}"
        return f"{part.replace('_', ' ')} {_told(was)}, the bundle has {_told(now)}"
    return None


def _told(value: object) -> str:
    """Return a part in a message: twelve digits of a sha256, 80 characters of other data."""
    if isinstance(value, str):
        return value[:12]
    return "none" if value is None else json.dumps(value)[:80]

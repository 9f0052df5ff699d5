"""N-gram stores: counted from the user's files, and found for a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Final

from skipstone.bundled import BUNDLED
from skipstone.errors import ConfigError, OutputError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model
from skipstone.runtime.text import NgramStore

__all__ = ["find_texts", "ngrams_for", "parse_size", "read_found", "require_place", "vocabulary_of"]

CODE_NGRAMS: Final = BUNDLED["pebble"] / "code.ngrams"
"""Counts of the modules that pebble was trained on."""
_UNITS: Final = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def vocabulary_of(bundle: Bundle) -> str:
    """Return what names the tokenizer of a bundle in a store."""
    return bundle.manifest.files["tokenizer.json"].sha256


def ngrams_for(model: Model, source: str | Path | NgramStore | None) -> NgramStore | None:
    """Return the store for a model: a file, one that is open, or that of the package by the word `pebble`.

    Raises: BundleError for a file that is no store of this tokenizer, ConfigError for what is no file.
    """
    if source is None or isinstance(source, NgramStore):
        return source
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"ngrams must be a file of `skipstone ngrams` or an open store, got {source!r}")
    file = CODE_NGRAMS if str(source) == "pebble" else Path(source)
    return NgramStore.open(file, vocabulary=vocabulary_of(model.bundle))


def require_place(output: Path, *, force: bool) -> None:
    """Raise OutputError where a store would replace a file without `force`."""
    if os.path.lexists(output) and not force:
        raise OutputError(f"{output} exists: pass --force to replace it")


def parse_size(text: str) -> int:
    """Return the bytes in a text like 500kB, 3MB or 1.5GB. Raises: ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]b)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"--max-size takes a size like 500kB, 3MB or 1.5GB, not '{text}'")
    unit = next(unit for unit in _UNITS if unit.lower() == match[2].lower())
    return int(float(match[1]) * _UNITS[unit])


def find_texts(paths: SequenceOf[Path]) -> list[tuple[Path, bool]]:
    """Return the files to read, each with whether it was named; those of a folder in order, without hidden ones.

    Raises: ConfigError for a path that is not there.
    """
    found: dict[Path, bool] = {}
    for path in paths:
        if path.is_dir():
            for file in _files_in(path):
                found.setdefault(file, False)
        elif path.exists():
            found[path] = True
        else:
            raise ConfigError(f"{path} is not there; give text files or folders of them")
    return list(found.items())


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def read_found(path: Path, *, named: bool) -> str | None:
    """Return the text of a file; None for one that was only found in a folder and is no UTF-8 text.

    Raises: ConfigError for a named file that is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            return None
        reason = error.strerror if isinstance(error, OSError) else f"byte {error.start} is no UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}; give UTF-8 text") from error
    return text if named or "\0" not in text else None

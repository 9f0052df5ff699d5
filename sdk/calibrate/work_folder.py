"""What is solved, kept on disk while a calibration runs: a run that was interrupted goes on there.

Every step has a key, a chain of hashes of all that it depends on, so a file under a key is right wherever it is found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from skipstone.bundled import cache_folder
from skipstone.errors import OutputError
from skipstone.exporters import ExportPlan
from skipstone.quant import QuantizedMatrix

__all__ = ["WorkFolder", "chained", "run_key"]

_KEPT_S: Final = 7 * 24 * 3600
_FIELDS: Final = tuple(field.name for field in fields(QuantizedMatrix))
Arrays = Mapping[str, NDArray[Any]]


class WorkFolder:
    """Matrices and states by the key of their step; what others left for a week is removed."""

    def __init__(self, parent: Path, key: bytes) -> None:
        """Raises: OutputError where the folder cannot be made."""
        self.path = parent / key.hex()[:24]
        with _writing(self.path):
            _remove_old(parent)
            self.path.mkdir(parents=True, exist_ok=True)
            os.utime(self.path)

    @classmethod
    def of_run(cls, key: bytes) -> Self:
        """Return the folder of a run in the cache folder. Raises: OutputError."""
        return cls(cache_folder() / "calibrations", key)

    def has(self, key: bytes) -> bool:
        """Whether a step is done: its states and then its matrices were written."""
        return self._file("matrices", key).is_file()

    def save(self, key: bytes, matrices: Mapping[str, QuantizedMatrix], states: Arrays) -> None:
        """Keep the matrices and the states of a step. Raises: OutputError."""
        self._save(self._file("states", key), states)
        self._save(self._file("matrices", key), _arrays(matrices))

    def _save(self, file: Path, arrays: Arrays) -> None:
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        with _writing(file):
            self.path.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as opened:
                np.savez(opened, allow_pickle=False, **arrays)
            partial.replace(file)

    def states(self, key: bytes) -> Arrays:
        """Return the states of a step that is done and not yet followed by another."""
        with np.load(self._file("states", key)) as stored:
            return {**stored}

    def matrices(self, key: bytes) -> Mapping[str, QuantizedMatrix]:
        """Return the matrices of a step that is done."""
        with np.load(self._file("matrices", key)) as stored:
            return _matrices(stored)

    def forget_states(self, key: bytes) -> None:
        """Remove the states of a step that another has followed."""
        self._file("states", key).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, kind: str, key: bytes) -> Path:
        return self.path / f"{key.hex()[:32]}.{kind}.npz"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; SKIPSTONE_CACHE sets the folder"
        ) from error


def _remove_old(parent: Path) -> None:
    if parent.is_dir():
        for folder in parent.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _KEPT_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _arrays(matrices: Mapping[str, QuantizedMatrix]) -> dict[str, NDArray[Any]]:
    """Return all that matrices hold as arrays, called `name/field`."""
    arrays = {}
    for name, matrix in matrices.items():
        for field in _FIELDS:
            value = getattr(matrix, field)
            if value is not None:
                arrays[f"{name}/{field}"] = np.asarray(value)
    return arrays


def _matrices(arrays: Arrays) -> dict[str, QuantizedMatrix]:
    """Return what `_arrays` was given."""
    values: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        matrix, _, field = name.rpartition("/")
        value: Any = array.item() if array.ndim == 0 else tuple(array.tolist()) if field == "shape" else array
        values.setdefault(matrix, dict.fromkeys(_FIELDS))[field] = value
    return {name: QuantizedMatrix(**given) for name, given in values.items()}


def run_key(plan: ExportPlan, *token_ids: NDArray[np.int64]) -> bytes:
    """Return a hash of the text, the recipe and the programs; the weights join it step by step."""
    programs = {"skipstone": version("skipstone"), "onnxruntime": ort.__version__, "numpy": np.__version__}
    settings = json.dumps([plan.recipe.to_json(), plan.checkpoint.config, programs], sort_keys=True, default=str)
    return chained(settings.encode(), *(tokens.tobytes() for tokens in token_ids))


def chained(*parts: bytes) -> bytes:
    """Return a hash of parts in their order."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()

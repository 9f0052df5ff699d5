"""A training that may be cut off: its state lies in a file beside the result, and the next run goes on from there."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.errors import ConfigError, OutputError
from skipstone.train.head import require_torch

__all__ = ["PartialRun", "replace_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRun:
    """The state of an unfinished run that writes `output`; `settings` are JSON data, of which all must be the same."""

    output: Path
    settings: Mapping[str, object]

    @property
    def path(self) -> Path:
        """The file of the state."""
        return self.output.with_name(f"{self.output.name}.partial")

    def find(self) -> Mapping[str, Any] | None:
        """Return the state that an earlier run left, None where there is none.

        Raises: ConfigError when it is of a run with other settings, or cannot be read.
        """
        torch = require_torch()
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, weights_only=True)
            settings, state = dict(found["settings"]), dict(found["state"])
        except Exception as error:  # torch has its own errors for each kind of damage
            raise ConfigError(
                f"{self.path} is no state of an earlier run that can be read; begin anew with --restart"
            ) from error
        changed = [name for name, value in self.settings.items() if settings.get(name) != value]
        if changed:
            was = ", ".join(f"{name.replace('_', ' ')} was {settings.get(name)}" for name in changed)
            now = ", ".join(f"{self.settings[name]}" for name in changed)
            raise ConfigError(
                f"{self.path} holds an unfinished run with other settings: {was}, is {now}; give the same settings to "
                "go on, or --restart to begin anew"
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state for a later run. Raises: OutputError."""
        buffer = io.BytesIO()
        require_torch().save({"settings": dict(self.settings), "state": dict(state)}, buffer)
        replace_file(self.path, buffer.getvalue())

    def finish(self, content: bytes) -> None:
        """Write the result, and forget the state. Raises: OutputError."""
        replace_file(self.output, content)
        self.path.unlink(missing_ok=True)

    def require_place(self) -> None:
        """Raise OutputError when the result could not be written, before any work is done."""
        hidden = _hidden(self.output)
        try:
            hidden.touch()
            hidden.unlink()
        except OSError as error:
            raise _not_written(self.output, error) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in place of the old one. Raises: OutputError."""
    hidden = _hidden(path)
    try:
        hidden.write_bytes(content)
        hidden.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _not_written(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror}; choose another place with -o, or change who may write there"
    )

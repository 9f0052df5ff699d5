"""The last step of every export: the check, the manifest, and the rename that shows the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from skipstone.runtime.bundle import BundleWriter, write_manifest
from skipstone.runtime.manifest import MANIFEST_NAME, FileEntry, Manifest

__all__ = ["Check", "finish"]

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

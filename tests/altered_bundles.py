"""Bundles whose files a test has changed, with a manifest that fits them again: as who means it would make them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skipstone.runtime.bundle.file_hashes import entry_of


def fit_manifest(folder: Path, **fields: Any) -> Path:
    """List all files of a bundle's folder as they are now, set fields of the manifest, and return the folder."""
    manifest = folder / "skipstone.json"
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != manifest]
    data = json.loads(manifest.read_text(encoding="utf-8"))
    data["files"] = {file.relative_to(folder).as_posix(): asdict(entry_of(file)) for file in files}
    manifest.write_text(json.dumps(data | fields), encoding="utf-8")
    return folder

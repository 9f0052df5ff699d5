"""What a manifest says of one file, and where the bundle comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skipstone.errors import BundleError

__all__ = ["FileEntry", "Provenance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the bundle comes from, by which version and command."""

    source: str
    tool_version: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size in bytes and sha256 (64 hexadecimal digits) of one file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.size < 0:
            raise BundleError(f"size must not be negative, found {self.size}")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise BundleError(f"sha256 must be 64 hexadecimal digits, found {self.sha256[:80]!r}")

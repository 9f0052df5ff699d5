"""What a manifest says of one file, and where the bundle comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import hexdigits
from typing import Final

from skipstone.errors import BundleError

__all__ = ["BLOCK_BYTES", "DIGITS_A_BLOCK", "FileEntry", "Provenance"]

BLOCK_BYTES: Final = 256 << 10
DIGITS_A_BLOCK: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the bundle comes from, by which version and command."""

    source: str
    tool_version: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size in bytes and sha256 (64 hexadecimal digits) of one file.

    `blocks` holds the first 16 digits of the sha256 of each 256 KiB of a large file, one behind the other; a small file
    has none, nor has any file of a bundle of format 9 or older.
    """

    size: int
    sha256: str
    blocks: str = ""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise BundleError(f"size must not be negative, found {self.size}")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise BundleError(f"sha256 must be 64 hexadecimal digits, found {self.sha256[:80]!r}")
        num_blocks = -(-self.size // BLOCK_BYTES)
        fits = len(self.blocks) == num_blocks * DIGITS_A_BLOCK and set(self.blocks) <= set(hexdigits.lower())
        if self.blocks and not fits:
            raise BundleError(
                f"blocks must be {DIGITS_A_BLOCK} hexadecimal digits for each of {num_blocks} blocks, found "
                f"{len(self.blocks)} characters"
            )

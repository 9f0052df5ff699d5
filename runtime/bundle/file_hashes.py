"""Hashes of a bundle's files: small files are compared whole at every load, large ones by some of their blocks."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Final

from skipstone.runtime.bundle.file_entry import BLOCK_BYTES, DIGITS_A_BLOCK, FileEntry

__all__ = ["entry_of", "is_altered", "sha256_of"]

# Larger files get a hash for each block. All smaller ones of a bundle are read in a few milliseconds.
LARGE_BYTES: Final = 2 << 20
# Blocks of a large file that one load compares: 1.5 MiB, a millisecond where the processor has instructions for sha256.
BLOCKS_A_LOAD: Final = 6


def entry_of(file: Path) -> FileEntry:
    """Return what a manifest says of a file. Cost: reads it once."""
    size, digest, blocks = file.stat().st_size, hashlib.sha256(), list[str]()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            if size > LARGE_BYTES:
                blocks.append(_short(block))
    return FileEntry(size=size, sha256=digest.hexdigest(), blocks="".join(blocks))


def is_altered(file: Path, entry: FileEntry) -> bool:
    """Whether a file differs from its entry: as a whole, or in one of a few blocks of a large file, drawn by chance.

    A large file of a bundle of an older format, which has no hashes of blocks, is not read. Raises: OSError.
    """
    if entry.size <= LARGE_BYTES:
        return hashlib.sha256(file.read_bytes()).hexdigest() != entry.sha256
    count = len(entry.blocks) // DIGITS_A_BLOCK
    numbers = random.SystemRandom().sample(range(count), min(count, BLOCKS_A_LOAD))
    with file.open("rb", buffering=0) as stream:
        for number in sorted(numbers):
            stream.seek(number * BLOCK_BYTES)
            if _short(stream.read(BLOCK_BYTES)) != entry.blocks[number * DIGITS_A_BLOCK :][:DIGITS_A_BLOCK]:
                return True
    return False


def sha256_of(file: Path) -> str:
    """Return the sha256 of a whole file in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()[:DIGITS_A_BLOCK]

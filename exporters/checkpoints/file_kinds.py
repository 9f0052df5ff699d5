"""What a file is, by its first bytes: names and suffixes are whatever a cache or a person made them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from skipstone.exporters.checkpoints.files import reading

__all__ = ["file_kind", "gguf_in", "is_gguf"]

_GGUF: Final = b"GGUF"
_STARTS: Final = {
    _GGUF: "a GGUF file",
    b"ggml": "a file older than GGUF",
    b"lmgg": "a file older than GGUF",
    b"fmgg": "a file older than GGUF",
    b"tjgg": "a file older than GGUF",
    b"PK\x03\x04": "a zip archive, as torch saves weights in",
    b"\x80\x02": "a pickle, as torch saved weights in",
    b"\x89HDF": "an HDF5 file",
    b"{": "a JSON file",
}


def file_kind(path: Path) -> str | None:
    """What a file is, such as "a GGUF file"; None where that is not known. Raises: CheckpointError when unreadable."""
    with reading(path, named=True) as file:
        start = file.read(9)
    for mark, kind in _STARTS.items():
        if start.startswith(mark):
            return kind
    # The length of a header in eight bytes, and then the header, which is JSON.
    is_safetensors = len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32
    return "a safetensors file" if is_safetensors else None


def is_gguf(path: Path) -> bool:
    """Whether a GGUF file lies there, whatever its name."""
    return path.is_file() and file_kind(path) == _STARTS[_GGUF]


def gguf_in(folder: Path) -> Path | None:
    """The first GGUF file in a folder, by name."""
    return next((path for path in sorted(folder.iterdir()) if is_gguf(path)), None)

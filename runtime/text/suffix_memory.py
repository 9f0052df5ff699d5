"""What earlier texts said, for the suffix drafter: in memory, and in a file where one is given."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from skipstone.errors import BundleError, OutputError
from skipstone.runtime.text.suffix_index import BOUNDARY, SuffixIndex

__all__ = ["SuffixMemory"]

MAGIC = b"skipstone suffix memory 1\n"
HEADER_BYTES = len(MAGIC) + 32


class SuffixMemory:
    """An index over the most recent texts of one tokenizer, a bounded number of tokens in all.

    With a file it starts from the texts there and adds each new one to it, under a lock, so that several processes may
    use one file. Who must not find the words of one text in the guesses of another gives each a memory of its own:
    guesses never change a text, but they change how long it takes.
    """

    def __init__(self, *, capacity: int = 65536, file: Path | None = None, vocabulary: str = "") -> None:
        """`vocabulary` names the tokenizer, in whatever words; a file made with another is refused.

        Raises: BundleError for a file that is not one of ours or of another tokenizer; OutputError for a place where no
        file can be.
        """
        self.index = SuffixIndex(capacity)
        self._lock, self._file = RLock(), file
        self._header = MAGIC + hashlib.sha256(vocabulary.encode()).digest()
        if file is not None:
            with self._locked_file():
                self.index.add(self._read())

    def add(self, token_ids: Sequence[int]) -> None:
        """Add one text. Raises: OutputError when the file cannot be written, BundleError when it is no longer ours."""
        if not token_ids:
            return
        with self._lock:
            self.index.add([BOUNDARY, *token_ids])
            if self._file is not None:
                with self._locked_file():
                    self._write(array("i", [BOUNDARY, *token_ids][-self.index.capacity :]))

    def _read(self) -> array[int]:
        assert self._file is not None
        data = self._file.read_bytes() if self._file.exists() else self._header
        self._require_ours(data)
        whole = (len(data) - HEADER_BYTES) // 4 * 4  # a crash may leave half a number at the end
        tokens = array("i", data[HEADER_BYTES : HEADER_BYTES + whole])
        return tokens[-self.index.capacity :]

    def _require_ours(self, data: bytes) -> None:
        """Raise BundleError unless a file that starts with `data` is a memory of this tokenizer."""
        if not data.startswith(MAGIC):
            raise BundleError(f"{self._file} is not a suffix memory; choose another file")
        if not data.startswith(self._header):
            raise BundleError(f"{self._file} was made with another tokenizer; choose another file, or remove it")

    def _write(self, token_ids: array[int]) -> None:
        """Append to the file; one that has grown to twice its bound is written anew with its end only."""
        assert self._file is not None
        size = self._file.stat().st_size if self._file.exists() else 0
        if 0 < size < HEADER_BYTES + 8 * self.index.capacity:
            with self._file.open("r+b") as stream:
                self._require_ours(stream.read(HEADER_BYTES))
                stream.seek((size - HEADER_BYTES) // 4 * 4 + HEADER_BYTES)
                stream.write(token_ids.tobytes())
            return
        kept = (self._read() + token_ids)[-self.index.capacity :]
        partial = self._file.with_name(f"{self._file.name}.partial")
        partial.write_bytes(self._header + kept.tobytes())
        partial.replace(self._file)

    @contextmanager
    def _locked_file(self) -> Iterator[None]:
        """Keep other processes from the file meanwhile."""
        assert self._file is not None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.with_name(f"{self._file.name}.lock").open("w") as lock:
                _lock(lock.fileno())
                yield
        except OSError as error:
            raise OutputError(f"{self._file} cannot be used: {error.strerror}; choose another file") from error


def _lock(descriptor: int) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    else:
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]

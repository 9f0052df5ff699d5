"""The cached rows of a prompt's beginning in a file: read into the cache of another process, not computed again.

The file is a line that names the format, a line of JSON behind its checksum, and blocks from multiples of 64 bytes on:
the token ids, then keys [K, T, D] and values of each layer; of one that holds the last rows only, those that it holds.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.bundle import PREFILL, DataError, LayerCache, format_of, parse_json, read_typed, write_whole
from skipstone.runtime.engine.model import Model
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.shared_tokens import num_shared

__all__ = ["LEAST_LEFT", "Prefix", "save_prefix"]

MAGIC: Final = b"skipstone prompt cache\n"
FORMAT_VERSION: Final = 2
MOST_HEADER_BYTES: Final = 1 << 16
ALIGNMENT: Final = 64
# A single token that waits is taken for one of the text, for which methods draft or leave out layers.
LEAST_LEFT: Final = 2
NOT_WEIGHTS: Final = (".json", ".jinja", ".txt", ".md", ".model")
MAKE_ANEW: Final = "remove it to make it anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the rows are of.

    `made_for` is the hash of all that they depend on beside the tokens. `exact`: each has the bits that it has alone;
    `is_long`: with the angles of long texts. `first_rows` are the first rows of the layers. `checksums` are those of
    the blocks.
    """

    format_version: int
    made_for: str
    num_tokens: int
    exact: bool
    is_long: bool
    first_rows: tuple[int, ...]
    checksums: tuple[int, ...]


def save_prefix(path: Path, sequence: Sequence, num_tokens: int) -> int:
    """Write the cached rows of the first `num_tokens` tokens, whole or not at all; return the bytes of the file.

    They must be cached, and made when the text's beginning was fed. Raises: ConfigError for rows that are not there,
    OutputError.
    """
    if not 0 < num_tokens <= sequence.num_cached:
        raise ConfigError(f"{sequence.num_cached} tokens are cached, {num_tokens} are to be kept; give a longer prompt")
    if not sequence.cache.holds(num_tokens):
        raise ConfigError(
            f"of the first {num_tokens} tokens rows have left the cache; save them before the text goes on"
        )
    header = _Header(
        format_version=FORMAT_VERSION,
        made_for=_made_for(sequence),
        num_tokens=num_tokens,
        exact=sequence.rules is not None,
        is_long=sequence.is_long,
        first_rows=sequence.cache.first_rows,
        checksums=tuple(zlib.crc32(block.data) for block in _blocks(sequence, num_tokens)),
    )
    return write_whole(path, _pieces(header, sequence))


class Prefix:
    """The tokens and rows of a file, mapped, not read; whole and undamaged when it was opened."""

    def __init__(self, path: Path, header: _Header, blocks: SequenceOf[NDArray[Any]]) -> None:
        tokens, *self._rows = blocks
        self.path, self._header = path, header
        self.token_ids: list[int] = tokens.tolist()

    @classmethod
    def open(cls, path: Path, model: Model) -> Prefix:
        """Map a file. Raises: BundleError for one that is none, that is damaged, or made for other weights."""
        header, start = _read_header(path)
        if header.made_for != _made_for(model):
            others = (
                " or another --cache" if len(model.manifest.cache_types) > 1 else "",
                " or another --prefill" if PREFILL in model.manifest.variant_kinds else "",
            )
            raise BundleError(f"{path} was made for another bundle{''.join(others)}; {MAKE_ANEW}, or name another file")
        try:
            content = np.asarray(np.memmap(path, np.uint8, mode="r"))
            blocks = list(_mapped(content, header, model.sessions.cache_layout, start))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} is cut off or damaged: {error}; {MAKE_ANEW}") from error
        return cls(path, header, blocks)

    def num_shared(self, token_ids: SequenceOf[int], *, is_long: bool) -> int:
        """Return how many tokens a text begins with as the file does; 0 where their rows have other angles."""
        return num_shared(self.token_ids, token_ids) if is_long == self._header.is_long else 0

    def fill(self, sequence: Sequence, *, left: int = LEAST_LEFT) -> int:
        """Give an empty cache the rows of the tokens that the text begins with; return how many.

        None where layers with a window hold the last rows only, and the text leaves the file's long before its end.
        At least `left` tokens of the text, two or more, are left to feed. What is fed then has the bits that it has
        without the file: where rows depend on those beside them, only whole pieces of a prompt are taken, so that the
        others are fed as they would be. Of an exact text any row is taken.
        """
        num_rows = 0 if sequence.num_cached else self._num_usable(sequence, left)
        if not num_rows or not sequence.cache.takes(num_rows, self._header.first_rows):
            return 0
        sequence.cache.fill(num_rows, self._header.first_rows, self._rows)
        sequence.mark_cached(num_rows, is_long=self._header.is_long)
        return num_rows

    def _num_usable(self, sequence: Sequence, left: int) -> int:
        num_tokens, chunk = len(sequence.token_ids), sequence.prefill_chunk
        shared = self.num_shared(sequence.token_ids, is_long=sequence.will_be_long)
        most = max(0, min(shared, num_tokens - left))
        if sequence.reads_apart and sequence.sessions.manifest.exact:  # rows do not depend on those beside them
            return most
        if left > LEAST_LEFT or not (sequence.rules and self._header.exact):
            return most - most % chunk
        # A last piece of one row may round in another way: there must be one with the file only where there is without.
        single = num_tokens % chunk == 1
        return next(count for count in range(most, -1, -1) if ((num_tokens - count) % chunk == 1) == single)


def _made_for(source: Sequence | Model) -> str:
    """Return the hash of weights, graphs and all else that rows of a text, or of a model's texts, depend on."""
    sessions, chunk = source.sessions, source.prefill_chunk
    manifest = sessions.manifest
    apart = {*manifest.adapters.values(), manifest.draft_head}
    inside = f"{manifest.draft_model}/"
    files = {
        name: entry.sha256
        for name, entry in manifest.files.items()
        if name not in apart and not name.startswith(inside) and not name.endswith(NOT_WEIGHTS)
    }
    parts = {
        "files": files,
        "cache": [asdict(layer) for layer in sessions.cache_layout],
        "rotaries": [asdict(rotary) for rotary in manifest.rotaries],
        "long_rope_from": manifest.long_rope_from,
        "chunk": chunk,
        "reads_apart": source.reads_apart,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _blocks(sequence: Sequence, num_tokens: int) -> Iterator[NDArray[Any]]:
    """Yield what the file holds, each in one piece."""
    yield np.asarray(sequence.token_ids[:num_tokens], "<i4")
    for block in sequence.cache.blocks(num_tokens):
        yield np.ascontiguousarray(block)


def _pieces(header: _Header, sequence: Sequence) -> Iterator[bytes | memoryview]:
    """Yield the bytes of the file."""
    line = json.dumps(asdict(header)).encode()
    start = MAGIC + b"%08x " % zlib.crc32(line) + line + b"\n"
    yield start + bytes(-len(start) % ALIGNMENT)
    for block in _blocks(sequence, header.num_tokens):
        yield block.data.cast("B")
        yield bytes(-block.nbytes % ALIGNMENT)


def _read_header(path: Path) -> tuple[_Header, int]:
    """Return the header and where the blocks begin. Raises: BundleError."""
    try:
        with path.open("rb") as stream:
            magic, line = stream.readline(len(MAGIC)), stream.readline(MOST_HEADER_BYTES)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; name another file") from error
    if magic != MAGIC:
        raise BundleError(f"{path} is no prompt cache; name another file")
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise BundleError(f"{path} is cut off or damaged; {MAKE_ANEW}")
    try:
        data = parse_json(text)
        if (version := format_of(data)) != FORMAT_VERSION:
            raise BundleError(
                f"{path} is a prompt cache of format {version}, this version reads {FORMAT_VERSION}; {MAKE_ANEW}"
            )
        header = read_typed(_Header, data, name="the header")
    except DataError as error:
        raise BundleError(f"{path} is a damaged prompt cache: {error}; {MAKE_ANEW}") from error
    start = len(magic) + len(line)
    return header, start + -start % ALIGNMENT


def _mapped(
    content: NDArray[np.uint8], header: _Header, layers: SequenceOf[LayerCache], start: int
) -> Iterator[NDArray[Any]]:
    """Yield the blocks over the memory of the file. Raises: ValueError where it holds others."""
    length = header.num_tokens
    shapes: list[tuple[tuple[int, ...], str]] = [((length,), "<i4")]
    for layer, first in zip(layers, header.first_rows, strict=True):
        shapes += [((layer.num_heads, length - first, layer.head_size), layer.dtype)] * 2
    for (shape, dtype), checksum in zip(shapes, header.checksums, strict=True):
        end = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = content[start:end]
        if end > len(content) or zlib.crc32(block.data) != checksum:
            raise ValueError("a checksum differs")
        yield block.view(dtype).reshape(shape)
        start = end + -end % ALIGNMENT
    if start != len(content):
        raise ValueError("its size differs")

"""What a bundle takes of memory, with each type of cache that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from skipstone.cli.terminal import aligned
from skipstone.runtime.bundle import Bundle, Manifest

__all__ = ["Memory", "as_json", "memory_of", "memory_table", "windows_told"]

# Beside weights and cache: the Python process, onnxruntime and a call's own buffers, as measured in docs/benchmarks.md.
PROCESS_BYTES = 80_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a model and, where it has one, its draft model; the cache for a text of `context` tokens."""

    context: int
    weights_bytes: int
    process_bytes: int
    cache_bytes: int
    cache_bytes_per_1k_tokens: int
    total_bytes: int


def memory_of(bundle: Bundle) -> dict[str, Memory]:
    """Return what a bundle takes, by type of cache as options call it; that which it takes by default comes first.

    The context is what a command would take here: the model's own, or as much of it as the memory allows.
    """
    from skipstone.devices import free_bytes
    from skipstone.runtime.engine import CACHE_WORDS, cache_bytes, cache_layouts, most_tokens

    other, manifest = bundle.open_draft_model(), bundle.manifest
    models = [manifest] if other is None else [manifest, other.manifest]
    layouts = [(cache_layouts(model), model.context_length) for model in models]
    table: dict[str, Memory] = {}
    for cache_type in layouts[0][0]:
        # A draft model may lack a type; its own default stands for it.
        layers = [(types.get(cache_type, next(iter(types.values()))), length) for types, length in layouts]
        limit, free = manifest.context_length, free_bytes()
        left = None if free is None else free - manifest.total_bytes - PROCESS_BYTES
        context = limit if left is None else most_tokens([one for of, _ in layers for one in of], left, limit=limit)
        whole = sum(cache_bytes(of_model, min(length, context)) for of_model, length in layers)
        table[CACHE_WORDS[cache_type]] = Memory(
            context=context,
            weights_bytes=manifest.total_bytes,
            process_bytes=PROCESS_BYTES,
            cache_bytes=whole,
            cache_bytes_per_1k_tokens=sum(cache_bytes(of_model, min(1000, length)) for of_model, length in layers),
            total_bytes=manifest.total_bytes + PROCESS_BYTES + whole,
        )
    return table


def as_json(table: Mapping[str, Memory]) -> dict[str, dict[str, int]]:
    """Return the table as plain data."""
    return {cache_type: asdict(memory) for cache_type, memory in table.items()}


def memory_table(table: Mapping[str, Memory], *, context_length: int) -> str:
    """Return the table in lines, in megabytes."""
    per = min(1000, context_length)
    head = ["cache", "weights", "process", "tokens", "their cache", "together", f"of {per:,} tokens"]
    lines = [
        [
            cache_type.ljust(len(head[0])),
            *map(_megabytes, (memory.weights_bytes, memory.process_bytes)),
            f"{memory.context:,}",
            *map(_megabytes, (memory.cache_bytes, memory.total_bytes, memory.cache_bytes_per_1k_tokens)),
        ]
        for cache_type, memory in table.items()
    ]
    return aligned([head, *lines]).rstrip("\n")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def windows_told(manifest: Manifest) -> list[str]:
    """Return for each kind of window how many caches have it, and how many rows of the longest text they hold."""
    length, kinds = manifest.context_length, Counter(manifest.cache)
    return [
        f"{count} of {len(manifest.cache)} caches are read through a window of {kind.window:,} tokens: "
        + ("they hold all rows" if (rows := kind.num_rows(length)) == length else f"they hold {rows:,} rows at most")
        for kind, count in kinds.items()
        if kind.window is not None
    ]

"""What a model call needs of a model: its graphs, opened on a device, and what the manifest says of them."""

from __future__ import annotations

from threading import Lock

from skipstone.devices import Device, Session, StagedDevice
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.feed import Part
from skipstone.runtime.engine.rotary_tables import RotaryTables

__all__ = ["Sessions"]


class Sessions:
    """The sessions of a bundle, without the state of any text: `graphs` are those of the stages, then the head's."""

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self.manifest, self._path = bundle.manifest, bundle.path
        files = [stage.file for stage in self.manifest.stages] + ([self.manifest.head] if self.manifest.head else [])
        self.device = device.for_stages() if len(files) > 1 and isinstance(device, StagedDevice) else device
        self.graphs = tuple(self._open(file) for file in files)
        self._adapters = {
            num_stages: self._open(self.manifest.adapters[str(stage.end_layer)])
            for num_stages, stage in enumerate(self.manifest.stages, start=1)
            if str(stage.end_layer) in self.manifest.adapters
        }
        self._draft_head: Session | None = None
        self._rotary_tables: RotaryTables | None = None
        self._lock = Lock()

    def of(self, part: Part) -> tuple[Session, ...]:
        """Return the sessions of a part, in the order in which they run."""
        num_stages = len(self.manifest.stages)
        chosen = range(num_stages) if part.stages is None else part.stages
        head = self.graphs[num_stages:] if part.head else ()
        if part.head and part.pruned:
            head = (self.draft_head,)
        adapter = self.adapter_of(part)
        return (*(self.graphs[number] for number in chosen), *(() if adapter is None else (adapter,)), *head)

    def adapter_of(self, part: Part) -> Session | None:
        """Return what stands between the exit of a part and the head; None where nothing does."""
        return self._adapters.get(part.exit) if part.head and part.exit is not None else None

    @property
    def draft_head(self) -> Session:
        """The session of the head for drafts, which the bundle must have; opened when first asked for.

        Raises: DeviceError.
        """
        with self._lock:
            if self._draft_head is None:
                assert self.manifest.draft_head is not None, "only a bundle with a draft head is asked for it"
                self._draft_head = self._open(self.manifest.draft_head)
            return self._draft_head

    def new_cache(self, capacity: int | None, *, batch: int = 1) -> KVCache:
        """Return a cache for `capacity` tokens, by default all that the model can see. Raises: ConfigError."""
        limit = self.manifest.context_length
        capacity = limit if capacity is None else capacity
        if not 1 <= capacity <= limit:
            raise ConfigError(f"context must lie between 1 and the model's {limit} tokens, got {capacity}")
        return KVCache.allocate(self.manifest.cache, self.device, capacity=capacity, batch=batch)

    def rotary_tables(self, capacity: int) -> RotaryTables:
        """Return tables for texts of `capacity` tokens and more, which all such texts share."""
        with self._lock:
            if self._rotary_tables is None or self._rotary_tables.length < capacity:
                self._rotary_tables = RotaryTables(self.manifest, self.device, length=capacity)
            return self._rotary_tables

    def _open(self, file: str) -> Session:
        return self.device.open_session(self._path / file)

"""What a model call needs of a model: its graphs, opened on a device, and what the manifest says of them."""

from __future__ import annotations

import weakref
from threading import Lock
from typing import Protocol

from skipstone.devices import Capability, Device, Session, StagedDevice, ThreadedDevice, give_back
from skipstone.errors import ConfigError, DeviceError
from skipstone.runtime.bundle import Bundle, require_graph
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.cache_types import checked_cache_type
from skipstone.runtime.engine.crew import Crew
from skipstone.runtime.engine.feed import Part
from skipstone.runtime.engine.gate import Gate
from skipstone.runtime.engine.room import memory_told
from skipstone.runtime.engine.rotary_tables import RotaryTables

__all__ = ["Sessions"]


# What smaller models leave behind is not worth the search for it.
LEAST_BYTES = 4 << 20


class Closable(Protocol):
    """What keeps sessions, and can let them go."""

    def close(self) -> None: ...


class Sessions:
    """The sessions of a bundle, without the state of any text.

    `buckets` are the sizes of its graphs where the device takes fixed shapes only; None where it takes any.

    Whoever holds one of them beyond a call holds this too, so that it goes last, and its memory back to the system.
    """

    def __init__(self, bundle: Bundle, device: Device, *, cache_type: str | None = None) -> None:
        """`cache_type` is how the manifest calls a type of cache; None is the bundle's own choice.

        Raises: ConfigError for a type that the bundle has no graphs for, or the device no kernels.
        """
        self.manifest, self._bundle, self._lock = bundle.manifest, bundle, Lock()
        self.cache_type = checked_cache_type(bundle, device, cache_type)
        self.cache_layout = self.manifest.layout(self.cache_type)
        self._rotary_tables: RotaryTables | None = None
        self._opened: dict[str, Session] = {}
        self.crew = Crew(device.threads, adapts=isinstance(device, ThreadedDevice) and device.adapts)
        is_large = self.manifest.total_bytes >= LEAST_BYTES
        self._drop = weakref.finalize(self, _close, self.crew, self._opened, is_large)
        self._drop.atexit = False
        self.gate, self.workspaces = Gate(), weakref.WeakSet[Closable]()
        head = [self.manifest.head] if self.manifest.head else []
        self._files = [*(stage.file for stage in self.manifest.stages), *head]
        self.device = device.for_stages() if len(self._files) > 1 and isinstance(device, StagedDevice) else device
        self._adapters = {
            num_stages: self.manifest.adapters[str(stage.end_layer)]
            for num_stages, stage in enumerate(self.manifest.stages, start=1)
            if str(stage.end_layer) in self.manifest.adapters
        }
        takes_any = Capability.DYNAMIC_SHAPES in self.device.capabilities
        self.buckets = None if takes_any else self.manifest.buckets
        for file in (*self._files, *self._adapters.values()) if self.buckets is None else ():
            self._graph(file)

    @property
    def graphs(self) -> tuple[Session, ...]:
        """Those of the stages, then the head's; the plain ones, as they are for the type of cache."""
        return tuple(self._graph(file) for file in self._files)

    @property
    def rounds_single_rows(self) -> bool:
        """Whether attention rounds a single row in a way of its own, so that calls may have to add a second."""
        if self.buckets is not None:
            return False
        return any(argument.name == "attention_rows" for graph in self.graphs for argument in graph.get_inputs())

    def of(self, part: Part) -> tuple[Session, ...]:
        """Return the sessions of a part, in the order in which they run; those of variants are opened on the way.

        Raises: ConfigError for a variant that the bundle lacks; DeviceError.
        """
        num_stages, kind = len(self.manifest.stages), part.variant
        chosen = range(num_stages) if part.stages is None else part.stages
        files = [self._files[number] for number in chosen]
        head = [*self._files[num_stages:]] if part.head else []
        if part.head and part.pruned:
            assert self.manifest.draft_head is not None, "only a bundle with a draft head is asked for it"
            head = [self.manifest.draft_head]
        adapter = self._adapter_file(part)
        return tuple(self._graph(file, kind) for file in (*files, *([] if adapter is None else [adapter]), *head))

    def adapter_of(self, part: Part) -> Session | None:
        """Return what stands between the exit of a part and the head; None where nothing does."""
        file = self._adapter_file(part)
        return None if file is None else self._graph(file, part.variant)

    def _adapter_file(self, part: Part) -> str | None:
        return self._adapters.get(part.exit) if part.head and part.exit is not None else None

    @property
    def draft_head(self) -> Session:
        """The session of the head for drafts, which the bundle must have; opened when first asked for.

        Raises: DeviceError.
        """
        assert self.manifest.draft_head is not None, "only a bundle with a draft head is asked for it"
        return self._graph(self.manifest.draft_head)

    def new_cache(self, capacity: int | None, *, batch: int = 1) -> KVCache:
        """Return a cache for `capacity` tokens, by default all that the model can see.

        Raises: ConfigError; DeviceError where there is no memory for it.
        """
        limit = self.manifest.context_length
        capacity = limit if capacity is None else capacity
        if not 1 <= capacity <= limit:
            raise ConfigError(f"context must lie between 1 and the model's {limit} tokens, got {capacity}")
        try:
            rows = None if self.buckets is None else self.buckets.context_for(capacity)
            return KVCache.allocate(self.cache_layout, self.device, capacity=capacity, batch=batch, fixed_rows=rows)
        except DeviceError as error:
            texts = f" of each of {batch} texts" if batch > 1 else ""
            takes = memory_told(self.manifest, self.cache_type, capacity, num_rows=batch)
            raise DeviceError(
                f"there is no memory for {capacity} tokens{texts}, which take {takes}; lower --context"
            ) from error

    def rotary_tables(self, capacity: int) -> RotaryTables:
        """Return tables for texts of `capacity` tokens and more, which all such texts share."""
        with self._lock:
            if self._rotary_tables is None or self._rotary_tables.length < capacity:
                self._rotary_tables = RotaryTables(self.manifest, self.device, length=capacity)
            return self._rotary_tables

    def close(self) -> None:
        """Let no more calls in, wait for those that run, and drop the sessions. Raises: as `Gate.close`."""
        self.gate.close()
        for workspace in list(self.workspaces):
            workspace.close()
        self._rotary_tables = None
        self._drop()

    def _graph(self, file: str, kind: str = "") -> Session:
        """Return a plain graph as a kind of variant, "" for none, has it; opened when first asked for."""
        if kind and kind not in self.manifest.variant_kinds:
            known = ", ".join(sorted(self.manifest.variant_kinds)) or "none"
            raise ConfigError(f"the bundle has no {kind} graphs (it has {known}); export it again with them")
        name = self.manifest.graph_file(file, kind=kind, cache_type=self.cache_type)
        with self._lock:
            self.gate.require_open()
            if name not in self._opened:
                place = self._bundle.file(name)
                with self._bundle.named_in_errors():
                    require_graph(place, self.manifest, file=file, kind=kind, cache_type=self.cache_type)
                    session = self._opened[name] = self.device.open_session(place)
                if self.crew.adapts and isinstance(self.device, ThreadedDevice):
                    self.crew.join(session, self.device.workers(session))
            return self._opened[name]


def _close(crew: Crew, opened: dict[str, Session], is_large: bool) -> None:
    """Drop sessions, and give back the memory of a large model."""
    crew.close()
    opened.clear()
    if is_large:
        give_back()

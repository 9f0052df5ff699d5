"""A bundle opened on a device: stages, tokenizer and manifest, without the state of any text."""

from __future__ import annotations

import weakref
from pathlib import Path

import onnxruntime as ort

from skipstone.devices import Device, open_device
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.cache import KVCache
from skipstone.runtime.call import Part
from skipstone.runtime.chat import ChatTemplate
from skipstone.runtime.sequence import Sequence
from skipstone.runtime.shared import SharedStores
from skipstone.runtime.tokenizer import Tokenizer
from skipstone.runtime.workspace import Spares, Workspace

__all__ = ["Model"]


class Model:
    """Sessions for every stage, and for the head if it is one of its own; any number of sequences may share it."""

    def __init__(self, bundle: Bundle, device: Device, *, profiles: Path | None = None) -> None:
        """`profiles` is the folder where measurements of the device are kept; None keeps them for this process only."""
        self.bundle, self.device, self.manifest = bundle, device, bundle.manifest
        self.shared, self.profiles, self._spares = SharedStores(), profiles, Spares()
        self.tokenizer = Tokenizer.load(bundle.path)
        self.chat_template = ChatTemplate.load(bundle.path)
        files = [stage.file for stage in self.manifest.stages] + ([self.manifest.head] if self.manifest.head else [])
        self.sessions = tuple(device.open_session(bundle.path / file) for file in files)

    def sessions_of(self, part: Part) -> tuple[ort.InferenceSession, ...]:
        """Return the sessions of a part, in the order in which they run."""
        num_stages = len(self.manifest.stages)
        chosen = range(num_stages) if part.stages is None else part.stages
        head = self.sessions[num_stages:] if part.head else ()
        return tuple(self.sessions[number] for number in chosen) + head

    @classmethod
    def open(
        cls, path: str | Path, *, device: str = "cpu", threads: int | None = None, profiles: Path | None = None
    ) -> Model:
        """Return the bundle in folder `path`, ready to run. Raises: BundleError, DeviceError."""
        bundle = Bundle.open(Path(path))
        return cls(bundle, open_device(device, threads=threads), profiles=profiles)

    @property
    def drafter(self) -> Model | None:
        """The draft model that the bundle carries, on the same device; None when it carries none.

        Opened when first asked for. Raises: BundleError, DeviceError.
        """
        return self.shared.get("draft model", self._open_drafter)

    def _open_drafter(self) -> Model | None:
        bundle = self.bundle.open_drafter()
        return None if bundle is None else Model(bundle, self.device, profiles=self.profiles)

    def new_sequence(self, *, context_length: int | None = None, exact: bool = False) -> Sequence:
        """Return an empty sequence with room for `context_length` tokens, by default all that the model can see.

        An `exact` one has room for one token less; see `Sequence`. Raises: ConfigError where the model is not exact.
        """
        if exact and not self.manifest.exact:
            raise ConfigError(
                "this bundle cannot be exact: how its graph rounds a row depends on the others; of experts, "
                "those of --precision int4 --group-size 32 can"
            )
        capacity = self.manifest.context_length if context_length is None else context_length
        workspace = self._spares.take(capacity) or Workspace(self, self.new_cache(context_length=capacity))
        sequence = Sequence(self, workspace, exact=exact)
        weakref.finalize(sequence, self._spares.give, workspace).atexit = False
        return sequence

    def new_cache(self, *, context_length: int | None = None, batch: int = 1) -> KVCache:
        limit = self.manifest.context_length
        capacity = limit if context_length is None else context_length
        if not 1 <= capacity <= limit:
            raise ConfigError(f"context must lie between 1 and the model's {limit} tokens, got {capacity}")
        return KVCache.allocate(self.manifest.cache, self.device, capacity=capacity, batch=batch)

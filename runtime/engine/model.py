"""A bundle opened on a device: stages, tokenizer and manifest, without the state of any text."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from skipstone.devices import Device, open_device
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.feed import Part
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.shared import SharedStores
from skipstone.runtime.engine.workspace import Spares, Workspace
from skipstone.runtime.text import ChatTemplate, Tokenizer

__all__ = ["Model", "exit_stages"]


def exit_stages(model: Model) -> Mapping[int, int]:
    """Return the exits: number of layers to number of stages. Raises: ConfigError when the bundle has none."""
    manifest = model.manifest
    ends = {stage.end_layer: number for number, stage in enumerate(manifest.stages, start=1)}
    if not manifest.exits:
        raise ConfigError("the bundle has no exits; make one with `skipstone export CHECKPOINT -o OUT --exits auto`")
    return {num_layers: ends[num_layers] for num_layers in sorted(manifest.exits)}


class Model:
    """Sessions for every stage, and for the head if it is one of its own; any number of sequences may share it."""

    def __init__(
        self, bundle: Bundle, device: Device, *, profiles: Path | None = None, draft_model: Bundle | None = None
    ) -> None:
        """`profiles` is the folder where measurements of the device are kept; None keeps them for this process only.

        `draft_model` is the draft model, in place of the one that the bundle carries. Raises: ConfigError unless it is
        smaller.
        """
        if draft_model is not None:
            _require_smaller(draft_model, bundle)
        self._draft_model = draft_model
        self.bundle, self.device, self.manifest = bundle, device, bundle.manifest
        self.shared, self.profiles, self._spares = SharedStores(), profiles, Spares()
        self.tokenizer = Tokenizer.load(bundle.path)
        self.chat_template = ChatTemplate.load(bundle.path)
        files = [stage.file for stage in self.manifest.stages] + ([self.manifest.head] if self.manifest.head else [])
        self.sessions = tuple(device.open_session(bundle.path / file) for file in files)
        self._adapters = {
            num_stages: device.open_session(bundle.path / self.manifest.adapters[str(stage.end_layer)])
            for num_stages, stage in enumerate(self.manifest.stages, start=1)
            if str(stage.end_layer) in self.manifest.adapters
        }

    def sessions_of(self, part: Part) -> tuple[ort.InferenceSession, ...]:
        """Return the sessions of a part, in the order in which they run."""
        num_stages = len(self.manifest.stages)
        chosen = range(num_stages) if part.stages is None else part.stages
        head = self.sessions[num_stages:] if part.head else ()
        if part.head and part.pruned:
            head = (self.draft_head,)
        adapter = self.adapter_of(part)
        return (*(self.sessions[number] for number in chosen), *(() if adapter is None else (adapter,)), *head)

    def adapter_of(self, part: Part) -> ort.InferenceSession | None:
        """Return what stands between the exit of a part and the head; None where nothing does."""
        return self._adapters.get(part.exit) if part.head and part.exit is not None else None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        profiles: Path | None = None,
        draft_model: str | Path | None = None,
    ) -> Model:
        """Return the bundle in folder `path`, ready to run, with that in folder `draft_model` as its draft model.

        Raises: BundleError, DeviceError; ConfigError for a draft model that is not smaller.
        """
        bundle, other = Bundle.open(Path(path)), None if draft_model is None else Bundle.open(Path(draft_model))
        return cls(bundle, open_device(device, threads=threads), profiles=profiles, draft_model=other)

    @property
    def draft_head(self) -> ort.InferenceSession:
        """The session of the head for drafts, which the bundle must have; opened when first asked for.

        Raises: DeviceError.
        """
        return self.shared.get("draft head", self._open_draft_head)

    def _open_draft_head(self) -> ort.InferenceSession:
        assert self.manifest.draft_head is not None, "only a bundle with a draft head is asked for it"
        return self.device.open_session(self.bundle.path / self.manifest.draft_head)

    @property
    def has_draft_model(self) -> bool:
        """Whether there is a draft model, given or in the bundle."""
        return self._draft_model is not None or self.manifest.draft_model is not None

    @property
    def draft_model(self) -> Model | None:
        """The draft model that was given, else that which the bundle carries, on the same device; None without one.

        Opened when first asked for. Raises: BundleError, DeviceError.
        """
        return self.shared.get("draft model", self._open_draft_model)

    def _open_draft_model(self) -> Model | None:
        bundle = self._draft_model or self.bundle.open_draft_model()
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


def _require_smaller(draft_model: Bundle, target: Bundle) -> None:
    """Raise ConfigError for a draft model that is as large as its target; what either carries does not count."""
    sizes = [one.manifest.total_bytes - one.manifest.draft_model_bytes for one in (draft_model, target)]
    if sizes[0] >= sizes[1]:
        found = f"it has {sizes[0] / 1e6:.1f} MB, the target {sizes[1] / 1e6:.1f} MB"
        raise ConfigError(f"{draft_model.path} cannot draft for {target.path}: {found}; take a smaller bundle")

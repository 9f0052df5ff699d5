"""A bundle opened on a device: stages, tokenizer and manifest, without the state of any text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from skipstone.devices import (
    DEFAULT_DEVICE,
    BoundedDevice,
    Capability,
    Device,
    bounded,
    choose_device,
    give_back,
)
from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import Bundle, LayerCache, Manifest
from skipstone.runtime.engine.branches import MOST_TREE_ROWS
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.cache_types import CACHE_TYPES, CacheName, nearest_cache_type
from skipstone.runtime.engine.device_fit import require_fit
from skipstone.runtime.engine.device_note import device_note
from skipstone.runtime.engine.prefill import PrefillName, reads_apart
from skipstone.runtime.engine.room import Room, cache_layouts, most_tokens
from skipstone.runtime.engine.rounding import (
    ALL_COUNTS,
    COUNTS,
    FREE_ROWS,
    ROUNDING_CONTEXT,
    Rounding,
    measure_rounding,
)
from skipstone.runtime.engine.runner import PREFILL_CHUNK
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.sessions import LEAST_BYTES, Sessions
from skipstone.runtime.engine.shared import SharedStores
from skipstone.runtime.engine.thread_note import on_best_threads
from skipstone.runtime.engine.workspace import BOUND_CALLS, Spares, Workspace
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
        self,
        bundle: Bundle,
        device: Device,
        *,
        profiles: Path | None = None,
        draft_model: Bundle | None = None,
        draft_device: Device | None = None,
        cache_type: str | None = None,
        prefill: PrefillName = "auto",
        prefill_chunk: int = PREFILL_CHUNK,
        bound_calls: int = BOUND_CALLS,
    ) -> None:
        """`profiles` is the folder where measurements of the device are kept; None keeps them for this process only.

        `draft_model` is the draft model, in place of the one that the bundle carries; it runs on `draft_device`, by
        default on `device`. `cache_type` is that of all
        texts, as the manifest calls it; None is the bundle's own. `prefill` says which graphs read prompts, see
        `reads_apart`; in pieces of `prefill_chunk` tokens. Each text keeps `bound_calls` shapes of calls bound. Raises:
        ConfigError unless the draft model is smaller, for a draft device without a draft model, and for a type of
        cache, or graphs, that the bundle or the device lacks.
        """
        require_fit(bundle, device)
        if draft_model is not None:
            _require_smaller(draft_model, bundle)
        if draft_device is not None and draft_model is None and bundle.manifest.draft_model is None:
            raise ConfigError(
                f"the draft device {draft_device.name} is for a small model, and {bundle.path} has none; leave it out, "
                "or name a smaller bundle with --draft-model"
            )
        if draft_device is not None and (small := draft_model or bundle.open_draft_model()) is not None:
            require_fit(small, draft_device)
        self._draft_model, self.draft_device = draft_model, draft_device or device
        self.bundle, self.device, self.manifest = bundle, device, bundle.manifest
        self.shared, self.profiles = SharedStores(), profiles
        self.allows_special = False  # whether special tokens that a message of a chat spells are such
        self.device_told: str | None = None
        self.draft_device_told: str | None = None
        with bundle.named_in_errors():
            self.tokenizer = Tokenizer.load(bundle.place)
            self.chat_template = ChatTemplate.load(bundle.place, only=bundle.manifest.files)
        if bundle.manifest.total_bytes >= LEAST_BYTES:
            give_back()  # reading a tokenizer leaves more behind than it keeps, in pieces too small for the weights
        self.reads_apart = reads_apart(bundle, prefill)
        self.sessions = Sessions(bundle, device, cache_type=cache_type)
        self.spares = Spares(self.sessions, bound_calls=bound_calls)
        self.prefill_chunk, self._bound_calls = prefill_chunk, bound_calls

    @classmethod
    @checks_arguments
    def open(
        cls,
        path: str | Path,
        *,
        device: str = DEFAULT_DEVICE,
        threads: int | None = None,
        max_threads: int | None = None,
        profiles: Path | None = None,
        draft_model: str | Path | None = None,
        draft_device: str | None = None,
        cache: CacheName | None = None,
        prefill: PrefillName = "auto",
        verify_files: bool = False,
    ) -> Model:
        """Return the bundle in folder `path`, ready to run, with that in folder `draft_model` as its draft model.

        Without `threads` it takes as many as are fastest now, at most `max_threads`, by default as many as
        `profiles` keep for this bundle here, else all physical cores.
        `device` may be `auto`: `device_told` says then which was taken and why.
        The draft model runs on `draft_device`, by default on the same, or `auto`, of which `draft_device_told` tells;
        `threads` are those of either.
        `cache` is the type of cache, `fp32` or `int8`; None is the bundle's own. `prefill` says which graphs read
        prompts: `int8`, the `same` that decode, or `auto` for what the bundle says. `verify_files` compares every byte
        of the bundles with their manifests first. Raises: BundleError, DeviceError;
        ConfigError for a draft model that is not smaller or not there, and for a type of cache, or graphs, that are
        not there.
        """
        other = None if draft_model is None else Bundle.open(Path(draft_model))
        with Bundle.opening(Path(path)) as bundle:
            for opened in (bundle, other) if verify_files else ():
                if opened is not None:
                    opened.verify()
            choice = choose_device(device, threads=threads, accept=lambda device: require_fit(bundle, device))
            drafting = None if draft_device is None else choose_device(draft_device, threads=threads)
            model = cls(
                bundle,
                on_best_threads(bundle, bounded(choice.device, threads=threads, max_threads=max_threads), profiles),
                profiles=profiles,
                draft_model=other,
                draft_device=None if drafting is None else drafting.device,
                cache_type=None if cache is None else CACHE_TYPES[cache],
                prefill=prefill,
            )
        model.device_told, model.draft_device_told = choice.told, None if drafting is None else drafting.told
        if choice.fell_back:
            warnings.warn(str(choice.told), RuntimeWarning, stacklevel=2)
        return model

    @property
    def has_draft_model(self) -> bool:
        """Whether there is a draft model, given or in the bundle."""
        return self._draft_model is not None or self.manifest.draft_model is not None

    @property
    def draft_model(self) -> Model | None:
        """The draft model that was given, else that which the bundle carries, on its device; None without one.

        Opened when first asked for. Raises: BundleError, DeviceError.
        """
        return self.shared.get("draft model", self._open_draft_model)

    def _open_draft_model(self) -> Model | None:
        bundle, device = self._draft_model or self.bundle.open_draft_model(), self.draft_device
        if bundle is None:
            return None
        cache_type = nearest_cache_type(bundle, device, self.sessions.cache_type)
        return Model(bundle, device, profiles=self.profiles, cache_type=cache_type)

    def close(self) -> None:
        """Drop the sessions, those of the draft model too, and all that is kept between texts; twice is once.

        A model call that runs in another thread ends first; whatever is called then raises ConfigError. Raises:
        ConfigError in a thread whose own call runs, as a signal's handler may meet it.
        """
        if isinstance(draft_model := self.shared.find("draft model"), Model):
            draft_model.close()
        self.sessions.close()
        self.spares.clear()
        self.shared.clear()

    @checks_arguments
    def new_sequence(self, *, context_length: int | None = None, exact: bool | None = False) -> Sequence:
        """Return an empty sequence with room for `context_length` tokens, by default all that the model can see.

        An `exact` one may have room for one token less; see `Sequence`. None: exact, too, but where quantized weights
        are; drafts have room only as long as exact ones cost little. Raises: ConfigError where no rule makes it so.
        """
        self.sessions.gate.require_open()
        rules = self.rounding.rules if exact or (exact is None and self.is_exact_by_default) else None
        takes_drafts = exact is not None or not self.is_exact_by_default or rules is not None
        if exact is None and rules is not None:
            rules = replace(rules, alone_from=self.rounding.exact_until)
        if exact and rules is None:
            raise ConfigError(
                "this bundle cannot be exact here: how its graph rounds a row depends on the others; of experts, "
                "those of --precision int4 --group-size 32 can"
            )
        return Sequence.open(
            self.spares,
            context_length,
            rules=rules,
            chains_only=bool(exact),
            takes_drafts=takes_drafts,
            prefill_chunk=self.prefill_chunk,
            reads_apart=self.reads_apart,
        )

    @property
    def is_exact_by_default(self) -> bool:
        """Whether texts are exact where nobody says. In float32 a last bit stays one: drafts may as well branch."""
        return self.manifest.precision != "fp32"

    @property
    def rounding(self) -> Rounding:
        """How the bits of a row depend on the rows beside it here; measured when no file knows it."""
        return self.shared.get("rounding", self._find_rounding)

    def _find_rounding(self) -> Rounding:
        if not self.manifest.exact:
            return Rounding(rules=None, price=0.0)
        if Capability.SEVERAL_ROWS not in self.device.capabilities:
            return Rounding(rules=FREE_ROWS, price=0.0)  # behind a prompt each row is alone
        note = device_note(Rounding, self.sessions, name="rounding", what="rounding of rows")
        limit = min(ROUNDING_CONTEXT, self.manifest.context_length)
        counts = ALL_COUNTS if self.manifest.precision == "fp32" else COUNTS
        return note.find_or_make(
            self.profiles, lambda: measure_rounding(self.new_workspace(context_length=limit), counts)
        )

    def sequence_in(self, cache: KVCache) -> Sequence:
        """Return an empty sequence over the cache of one text."""
        return Sequence(
            self._workspace(cache), self.spares, prefill_chunk=self.prefill_chunk, reads_apart=self.reads_apart
        )

    def new_workspace(self, *, context_length: int | None = None) -> Workspace:
        """Return a workspace of its own for calls on `context_length` tokens. Raises: as `new_cache`."""
        return self._workspace(self.new_cache(context_length=context_length))

    def new_cache(self, *, context_length: int | None = None, batch: int = 1) -> KVCache:
        """Return a cache for `context_length` tokens, by default all that the model can see. Raises: ConfigError."""
        return self.sessions.new_cache(context_length, batch=batch)

    def room(self, *, num_rows: int = 1, num_tokens: int = 0) -> Room:
        """Return for how many tokens texts get room where nobody says, `num_rows` of them at once.

        That is all that the model sees, or what the memory allows that was left when this was first asked; but at least
        `num_tokens`, those of a prompt and its answer, and some for drafts that branch.
        """
        limit = self.manifest.context_length
        allowed, left = limit, None
        for free, layers in self.shared.get("memory left", self._memory_left):
            most = most_tokens(layers * num_rows, free, limit=limit)
            allowed, left = (most, free) if left is None or most < allowed else (allowed, left)
        return Room(
            limit=limit,
            allowed=allowed,
            left=left,
            cache_type=self.sessions.cache_type,
            num_rows=num_rows,
            wanted=num_tokens and num_tokens + MOST_TREE_ROWS,
        )

    def _memory_left(self) -> list[tuple[int, tuple[LayerCache, ...]]]:
        """Return what each device has left that tells, and the layers whose keys and values a text keeps there.

        Those of the draft model count on both: two devices may share their memory.
        """
        other = self._draft_model or self.bundle.open_draft_model()
        little = () if other is None else _layers_of(other.manifest, self.sessions.cache_type)
        left = [(self.device, _layers_of(self.manifest, self.sessions.cache_type) + little)]
        if self.draft_device is not self.device:
            left.append((self.draft_device, little))
        told = [(device.free_bytes(), layers) for device, layers in left if isinstance(device, BoundedDevice)]
        return [(free, layers) for free, layers in told if free is not None]

    def _workspace(self, cache: KVCache) -> Workspace:
        return Workspace(self.sessions, cache, bound_calls=self._bound_calls)


def _layers_of(manifest: Manifest, cache_type: str) -> tuple[LayerCache, ...]:
    layouts = cache_layouts(manifest)
    return tuple(layouts.get(cache_type) or next(iter(layouts.values())))


def _require_smaller(draft_model: Bundle, target: Bundle) -> None:
    """Raise ConfigError for a draft model that is as large as its target; what either carries does not count."""
    sizes = [bundle.manifest.total_bytes - bundle.manifest.draft_model_bytes for bundle in (draft_model, target)]
    if sizes[0] >= sizes[1]:
        found = f"it has {sizes[0] / 1e6:.1f} MB, the target {sizes[1] / 1e6:.1f} MB"
        raise ConfigError(f"{draft_model.path} cannot draft for {target.path}: {found}; take a smaller bundle")

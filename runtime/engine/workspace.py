"""Where one text is computed: its cache and the calls bound to it, handed on to the next text when it is gone."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import RLock
from typing import Final

from skipstone.devices import Buffer, Device
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.calls import Call, open_call
from skipstone.runtime.engine.draft_vocabulary import DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Feed, Part
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["BOUND_CALLS", "Spares", "Workspace"]

# Calls of these many shapes stay bound; the shapes of a decoding loop are few, those of prompts are not.
BOUND_CALLS: Final = 24
_Shape = tuple[tuple[int, ...], bool, bool, bool, range | tuple[int, ...], Part] | Part


class Scratch:
    """Large buffers that calls of like shape share, since one runs at a time.

    It knows nothing of the calls that keep it, so that a workspace is freed as soon as nobody holds it.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, int], Buffer] = {}

    def zeros(self, name: str, num_rows: int, width: int, dtype: str) -> Buffer:
        """Return zeros [num_rows, width or more]."""
        key = name, 1 << (num_rows - 1).bit_length()
        if key not in self._buffers or self._buffers[key].shape[1] < width:
            self._buffers[key] = self._device.zeros((key[1], width), dtype)
        return self._buffers[key].view(slice(num_rows))


class Workspace:
    """A cache and the calls bound to it. To bind one costs as much as a small model's step, so they are kept.

    Invariant: at most `bound_calls` calls are bound, those used last.
    """

    def __init__(self, sessions: Sessions, cache: KVCache, *, bound_calls: int = BOUND_CALLS) -> None:
        self.sessions, self.cache = sessions, cache
        self._bound_calls = bound_calls
        self._calls: OrderedDict[_Shape, Call] = OrderedDict()
        self._scratch = Scratch(sessions.device)
        sessions.workspaces.add(self)

    def call(self, feed: Feed, part: Part = WHOLE) -> Call:
        """Return the call for feeds of this shape and with these rows, bound when first asked for."""
        key: _Shape = part  # a call of fixed graphs takes all shapes
        if self.sessions.buckets is None:
            key = (feed.token_ids.shape, feed.weights is None, feed.tree is None, feed.alone, feed.rows, part)
        if key not in self._calls:
            if len(self._calls) == self._bound_calls:
                self._calls.popitem(last=False)
            self._calls[key] = self._open(feed, part)
        self._calls.move_to_end(key)
        return self._calls[key]

    def close(self) -> None:
        """Forget the calls that are bound, and so the sessions that they hold."""
        self._calls.clear()
        self._scratch = Scratch(self.sessions.device)
        self.__dict__.pop("draft_vocabulary", None)

    def _open(self, feed: Feed, part: Part) -> Call:
        vocabulary = self.draft_vocabulary if part.head and part.pruned else None
        return open_call(self.sessions, self.cache, feed, part, zeros=self._scratch.zeros, vocabulary=vocabulary)

    @cached_property
    def draft_vocabulary(self) -> DraftVocabulary:
        """The tokens that the model's draft head knows, which must be there; all pruned calls share it."""
        (num_first,) = (out.shape[1] for out in self.sessions.draft_head.get_outputs() if out.name == "logits")
        vocab_size = self.sessions.manifest.dimensions.vocab_size
        return DraftVocabulary(self.sessions.device, num_first=num_first, vocab_size=vocab_size)


class Spares:
    """The workspace of the last text that is gone, for the next one with as much room."""

    def __init__(self, sessions: Sessions, *, bound_calls: int = BOUND_CALLS) -> None:
        """A new workspace keeps `bound_calls` calls bound."""
        self._sessions, self._bound_calls = sessions, bound_calls
        self._spare: Workspace | None = None
        self._lock = RLock()  # a text may be collected, and give its workspace, while another takes one

    def take(self, capacity: int | None) -> Workspace:
        """Return the spare workspace if it has room for exactly `capacity` tokens, else a new one.

        None is room for all that the model can see. Raises: ConfigError for more than that.
        """
        most = self._sessions.manifest.context_length if capacity is None else capacity
        with self._lock:
            spare = self._spare
            if spare is not None and spare.cache.capacity == most:
                self._spare = None
                return spare
        return Workspace(self._sessions, self._sessions.new_cache(most), bound_calls=self._bound_calls)

    def clear(self) -> None:
        """Forget the spare workspace."""
        with self._lock:
            self._spare = None

    def give(self, workspace: Workspace) -> None:
        with self._lock:
            self._spare = workspace

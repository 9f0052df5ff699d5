"""Drafters by name: ours and those of other packages come in through the same door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Literal, TypeVar

from skipstone.errors import ConfigError
from skipstone.runtime.drafters.drafter import Drafter
from skipstone.runtime.model import Model
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.sequence import Sequence

__all__ = ["GROUP", "DrafterContext", "SharedStores", "open_drafter", "registered_drafters"]

GROUP = "skipstone.drafters"
# The value of an entry point is a factory: it takes a DrafterContext and returns a Drafter.
OUR_DRAFTERS = tuple(
    EntryPoint(name=name, value=f"skipstone.runtime.drafters.{where}", group=GROUP)
    for name, where in {
        "ngram": "ngram:open_ngram",
        "suffix": "suffix:open_suffix",
        "recycle": "recycle:open_recycle",
        "model": "draft_model:open_model",
        "staged": "draft_model:open_staged",
        "jacobi": "jacobi:open_jacobi",
        "lookahead": "lookahead:open_lookahead",
    }.items()
)

T = TypeVar("T")


class SharedStores:
    """What the drafters of one model keep from text to text: tables, indexes, the drafter's own model.

    Each is made when first asked for. What is stored guards itself against use by two texts at once.
    """

    def __init__(self) -> None:
        self._stores: dict[str, Any] = {}
        self._lock = RLock()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return the store `name`, made by `make` if it is not there yet."""
        with self._lock:
            if name not in self._stores:
                self._stores[name] = make()
            store: T = self._stores[name]
            return store


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterContext:
    """What a drafter may use for one text.

    `sampler` chooses the tokens of this text from the target's logits; `sequence` is the target's text. `trees` says
    whether drafts may branch: not in exact mode, nor where layers see only a window of the text. `rule` is the rule
    that verifies: `match` takes any draft, `rejection` and `k-seq` need drafts drawn by chance, with their laws; a
    drafter that cannot give them raises ConfigError when opened.
    """

    model: Model
    sampler: Sampler
    sequence: Sequence
    shared: SharedStores = field(default_factory=SharedStores)
    trees: bool = True
    rule: Literal["match", "rejection", "k-seq"] = "match"


def registered_drafters() -> Mapping[str, EntryPoint]:
    """Return all drafters by name. Raises: ConfigError when two have the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in (*OUR_DRAFTERS, *entry_points(group=GROUP)):
        if entry.name in found:
            raise ConfigError(
                f"the drafter {entry.name} is registered twice, by {found[entry.name].value} and {entry.value}: "
                "uninstall one of the two packages"
            )
        found[entry.name] = entry
    return found


def open_drafter(name: str, context: DrafterContext) -> Drafter:
    """Return the drafter `name` for one text. Raises: ConfigError for an unknown name, or for one that cannot run."""
    registered = registered_drafters()
    if name not in registered:
        raise ConfigError(f"decoding method {name!r} is not known; known are plain, auto, {', '.join(registered)}")
    drafter: Drafter = registered[name].load()(context)
    return drafter

"""Drafters by name: ours and those of other packages come in through the same door."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from skipstone.errors import ConfigError
from skipstone.runtime.drafters.drafter import Drafter
from skipstone.runtime.model import Model
from skipstone.runtime.sampling import Sampler
from skipstone.runtime.sequence import Sequence
from skipstone.runtime.shared import SharedStores

__all__ = ["GROUP", "DrafterContext", "open_drafter", "registered_drafters"]

GROUP = "skipstone.drafters"
# The value of an entry point is a factory: it takes a DrafterContext and returns a Drafter.
OUR_DRAFTERS = tuple(
    EntryPoint(name=name, value=f"skipstone.runtime.drafters.{where}", group=GROUP)
    for name, where in {
        "ngram": "ngram:open_ngram",
        "suffix": "suffix:open_suffix",
        "recycle": "recycle:open_recycle",
        "model": "draft_model:open_model",
        "tree": "draft_model:open_tree",
        "staged": "draft_model:open_staged",
        "big-little": "big_little:open_big_little",
        "self": "exits:open_self",
        "skip": "skip:open_skip",
        "free": "free:open_free",
        "jacobi": "jacobi:open_jacobi",
        "lookahead": "lookahead:open_lookahead",
    }.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterContext:
    """What a drafter may use for one text.

    `sampler` chooses the tokens of this text from the target's logits; `sequence` is the target's text; `shared` keeps
    what outlives the text, `text` what its drafters share. `trees` says
    whether drafts may branch: not in exact mode, nor where layers see only a window of the text. `rule` is the rule
    that verifies: `match` takes any draft, `rejection` and `k-seq` need drafts drawn by chance, with their laws; a
    drafter that cannot give them raises ConfigError when opened.
    """

    model: Model
    sampler: Sampler
    sequence: Sequence
    shared: SharedStores = field(default_factory=SharedStores)
    text: SharedStores = field(default_factory=SharedStores)
    trees: bool = True
    rule: Literal["match", "rejection", "k-seq"] = "match"


@functools.cache  # looking through all installed packages takes milliseconds
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

"""The ways of making several drafts of what follows a text, by name."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, TypeAlias

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Sequence
from skipstone.runtime.suggest.auto import auto
from skipstone.runtime.suggest.beam import beam
from skipstone.runtime.suggest.branch import branch
from skipstone.runtime.suggest.contrast import contrast
from skipstone.runtime.suggest.diverse import diverse
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.superposed import superposed

__all__ = ["WAYS", "Way", "finish", "require_ngrams_used", "suggest", "way_named"]

Way: TypeAlias = Callable[[Sequence, SuggestRequest], Generator[None, None, list[Suggestion]]]
"""Takes one model step for each `next`, so that it can be closed between two, and returns the suggestions at the end.

The sequence holds the prompt. A way leaves it as it came, also when it is closed: what is cached of it stays cached.
"""

WAYS: Final[dict[str, Way]] = {
    "auto": auto,
    "branch": branch,
    "superposed": superposed,
    "beam": beam,
    "diverse": diverse,
    "contrast": contrast,
}

WITH_NGRAMS: Final = frozenset({"auto", "superposed"})
"""Ways that n-grams of the user's texts may change."""


def require_ngrams_used(name: str) -> None:
    """Raise ConfigError for a way to which n-grams are given in vain."""
    if name not in WITH_NGRAMS:
        raise ConfigError(f"{name} reads no n-grams; leave them out, or take {' or '.join(sorted(WITH_NGRAMS))}")


def way_named(name: str) -> Way:
    """Return a way. Raises: ConfigError for an unknown name."""
    if name not in WAYS:
        raise ConfigError(f"unknown method {name!r} for suggestions; known are {', '.join(WAYS)}")
    return WAYS[name]


def is_chosen(name: str) -> bool:
    """Whether a way leaves it to the device and the prompt which way is taken."""
    return way_named(name) is auto


def suggest(sequence: Sequence, request: SuggestRequest, *, method: str = "auto") -> list[Suggestion]:
    """Return drafts of what follows the sequence, the best first; it stays as it is. Raises: ConfigError, CacheFull."""
    return finish(way_named(method)(sequence, request))


def finish(steps: Generator[None, None, list[Suggestion]]) -> list[Suggestion]:
    """Take all steps of a way and return its suggestions."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            suggestions: list[Suggestion] = end.value
            return suggestions

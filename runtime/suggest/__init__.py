"""Several short drafts of what follows a text, for one price or little more: superposed, branches, beams."""

from __future__ import annotations

from skipstone.runtime.suggest.auto import WayChoice, choose_way
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.ways import Way, finish, is_chosen, require_ngrams_used, suggest, way_named
from skipstone.runtime.suggest.words import completing_words

__all__ = [
    "SuggestRequest",
    "Suggestion",
    "Way",
    "WayChoice",
    "choose_way",
    "completing_words",
    "finish",
    "is_chosen",
    "require_ngrams_used",
    "suggest",
    "way_named",
]

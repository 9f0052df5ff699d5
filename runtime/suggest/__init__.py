"""Several short drafts of what follows a text, for one price or little more: superposed, branches, beams."""

from __future__ import annotations

from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.ways import suggest

__all__ = ["SuggestRequest", "Suggestion", "suggest"]

"""The model at work: sessions, calls, cache, and the sequence that holds one text."""

from __future__ import annotations

from skipstone.runtime.engine.ahead import EarlyRows
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.call import BoundCall
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.draft_vocabulary import MOST_EXTRA, REFRESH_EVERY, DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Blends, Feed, Part, TreeMask
from skipstone.runtime.engine.model import Model, exit_stages
from skipstone.runtime.engine.optimum_call import WrappedCall
from skipstone.runtime.engine.runner import PREFILL_CHUNK
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.sessions import Sessions
from skipstone.runtime.engine.shared import SharedStores
from skipstone.runtime.engine.workspace import Spares, Workspace

__all__ = [
    "MOST_EXTRA",
    "PREFILL_CHUNK",
    "REFRESH_EVERY",
    "WHOLE",
    "Blends",
    "BoundCall",
    "Draft",
    "DraftVocabulary",
    "EarlyRows",
    "Feed",
    "KVCache",
    "Model",
    "Part",
    "Sequence",
    "Sessions",
    "SharedStores",
    "Spares",
    "TreeMask",
    "Workspace",
    "WrappedCall",
    "exit_stages",
]

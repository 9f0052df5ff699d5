"""The model at work: sessions, calls, cache, and the sequence that holds one text."""

from __future__ import annotations

from skipstone.runtime.engine.branches import Branches, branches_behind, open_branches
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.cache_types import CACHE_TYPES, CACHE_WORDS, CacheName, runs_cache
from skipstone.runtime.engine.call import BoundCall
from skipstone.runtime.engine.calls import Call, open_call
from skipstone.runtime.engine.device_fit import why_chains
from skipstone.runtime.engine.device_note import device_note
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import HIDDEN, WHOLE, Blends, Feed, Part, TreeMask
from skipstone.runtime.engine.gate import CLOSED
from skipstone.runtime.engine.model import Model, exit_stages
from skipstone.runtime.engine.optimum_call import WrappedCall
from skipstone.runtime.engine.prefill import MOST_PREFILL_KL, PrefillName, prefill_by_default, prefill_kl
from skipstone.runtime.engine.prefix_file import LEAST_LEFT, Prefix, save_prefix
from skipstone.runtime.engine.reading import PromptProgress, PromptWatch, current_watch, watched_by
from skipstone.runtime.engine.room import Room, cache_bytes, cache_layouts, memory_told, most_tokens
from skipstone.runtime.engine.rotary_tables import rotary_rows
from skipstone.runtime.engine.rounding import ANY_ROWS, RowRule
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.shared import SharedStores
from skipstone.runtime.engine.thread_choice import are_starved
from skipstone.runtime.engine.thread_note import BestThreads, on_best_threads, threads_note
from skipstone.runtime.engine.together import groups_of, pending_feed, read_together
from skipstone.runtime.engine.workspace import Workspace

__all__ = [
    "ANY_ROWS",
    "CACHE_TYPES",
    "CACHE_WORDS",
    "CLOSED",
    "HIDDEN",
    "LEAST_LEFT",
    "MOST_PREFILL_KL",
    "WHOLE",
    "BestThreads",
    "Blends",
    "BoundCall",
    "Branches",
    "CacheName",
    "Call",
    "Draft",
    "Feed",
    "KVCache",
    "Model",
    "Part",
    "PrefillName",
    "Prefix",
    "PromptProgress",
    "PromptWatch",
    "Room",
    "RowRule",
    "Sequence",
    "SharedStores",
    "TreeMask",
    "Workspace",
    "WrappedCall",
    "are_starved",
    "branches_behind",
    "cache_bytes",
    "cache_layouts",
    "current_watch",
    "device_note",
    "exit_stages",
    "groups_of",
    "memory_told",
    "most_tokens",
    "on_best_threads",
    "open_branches",
    "open_call",
    "pending_feed",
    "prefill_by_default",
    "prefill_kl",
    "read_together",
    "rotary_rows",
    "runs_cache",
    "save_prefix",
    "threads_note",
    "watched_by",
    "why_chains",
]

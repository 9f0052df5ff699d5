"""Which kind of call runs a model: by who made its graphs, and by the shapes that the device takes."""

from __future__ import annotations

from typing import TypeAlias

from skipstone.runtime.engine.bucket_call import BucketCall
from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.call import BoundCall, Zeros
from skipstone.runtime.engine.draft_vocabulary import DraftVocabulary
from skipstone.runtime.engine.feed import WHOLE, Feed, Part
from skipstone.runtime.engine.optimum_call import WrappedCall
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["Call", "open_call"]

Call: TypeAlias = BoundCall | WrappedCall | BucketCall
"""Something that runs feeds of one shape; `hidden` is what its last stage gave."""


def open_call(
    sessions: Sessions,
    cache: KVCache,
    feed: Feed,
    part: Part = WHOLE,
    *,
    zeros: Zeros | None = None,
    vocabulary: DraftVocabulary | None = None,
) -> Call:
    """Return the call for feeds of the shape and with the rows of `feed`; the rest is as in `BoundCall`."""
    if sessions.manifest.is_traced:
        return WrappedCall(sessions, cache, feed)
    if sessions.buckets is not None:
        return BucketCall(sessions, cache, part)
    return BoundCall(sessions, cache, feed, part, zeros=zeros, vocabulary=vocabulary)

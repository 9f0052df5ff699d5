"""Short texts that one call reads: a call takes as long as some rows beyond its own, and a row has its bits alone."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.engine.cache import KVCache
from skipstone.runtime.engine.call import MAX_PIECE
from skipstone.runtime.engine.calls import open_call
from skipstone.runtime.engine.feed import WHOLE, Feed, Part
from skipstone.runtime.engine.prompt_reader import READING
from skipstone.runtime.engine.runner import PADDING_ID
from skipstone.runtime.engine.sequence import Sequence
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["groups_of", "pending_feed", "read_together"]

# A call takes as long as 2 to 13 rows more than it has, and the rows of longer texts gain nothing by others beside
# them (docs/prefill.md).
MOST_PADDING: Final = 4
LONGEST: Final = 64


def groups_of(sequences: SequenceOf[Sequence]) -> list[range]:
    """Return which of these texts, whose lengths rise, one call each is to read: all are in one group, in order.

    Those of a group have nothing cached and are of like lengths, so that padding costs less than a call; together they
    are no more than a piece of a prompt.
    """
    groups, stop = list[range](), len(sequences)
    while stop:
        start = stop - 1
        while start and _joins(sequences[start - 1], sequences[stop - 1], stop - start + 1):
            start -= 1
        groups.append(range(start, stop))
        stop = start
    return groups[::-1]


def _joins(sequence: Sequence, longest: Sequence, count: int) -> bool:
    """Whether a text may be the last of so many that are padded to the longest."""
    if not (sequence.is_unread and longest.is_unread) or sequence.will_be_long != longest.will_be_long:
        return False
    num_tokens = len(longest.token_ids)
    rings = [layer.ring_layout for layer in longest.sessions.manifest.cache]
    most = min([LONGEST, longest.prefill_chunk // count, *(ring.next_turn(0) for ring in rings if ring)])
    return 0 <= num_tokens - len(sequence.token_ids) <= MOST_PADDING and num_tokens <= most


def read_together(sequences: SequenceOf[Sequence], cache: KVCache) -> NDArray[np.float32]:
    """Feed texts that have nothing cached, all by one call; return logits [B, V] for what follows each.

    `cache` has a row for each, in order; all have the angles of long texts or none, as attention over nothing cached
    takes one first position for all. Each text is then as after `extend` by an empty draft, with the same bits
    where rows have the same whatever is beside them: see `Rounding`.
    """
    first = sequences[0]
    for sequence in sequences:
        sequence.mark_cached(0, is_long=sequence.will_be_long)
    starts = np.array([sequence.next_position for sequence in sequences])
    texts = [sequence.token_ids for sequence in sequences]
    if not first.reads_apart:
        logits = _read(first.sessions, cache, texts, starts, WHOLE)
    else:  # a text of one token is read too, and that row is written again
        _read(first.sessions, cache, [text[:-1] or text for text in texts], starts, READING)
    for sequence in sequences:
        sequence.mark_cached(len(sequence.token_ids) - 1, is_long=sequence.is_long)
    if first.reads_apart:
        feed = pending_feed(sequences)
        logits = open_call(first.sessions, cache, feed).run(feed)
    for sequence in sequences:
        sequence.mark_extended()
    return logits.copy()


def _read(
    sessions: Sessions,
    cache: KVCache,
    texts: SequenceOf[SequenceOf[int]],
    starts: NDArray[np.int64],
    part: Part,
) -> NDArray[np.float32]:
    """Run a part on texts that are padded on the right; return the logits behind each, if the part has a head."""
    sizes = np.array([len(text) for text in texts])
    most = int(sizes.max())
    most += most > MAX_PIECE  # attention rounds a single row at the end of many in a way of its own
    token_ids = np.array([[*text, *[PADDING_ID] * (most - len(text))] for text in texts])
    ends = np.arange(len(texts)) * most + sizes - 1
    rows = tuple(ends.tolist()) if part.head else range(0)
    feed = Feed(token_ids[:, :, None], np.zeros_like(sizes), rows, starts, sizes=sizes)
    return open_call(sessions, cache, feed, part).run(feed)


def pending_feed(sequences: SequenceOf[Sequence]) -> Feed:
    """Return the feed of the last token of each text."""
    return Feed(
        np.array([[[sequence.token_ids[-1]]] for sequence in sequences]),
        np.array([sequence.num_cached for sequence in sequences]),
        range(len(sequences)),
        np.array([sequence.next_position for sequence in sequences]),
        alone=True,
    )

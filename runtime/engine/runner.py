"""How tokens that wait become calls: long texts in pieces, and rows added where a row alone would round otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Capability
from skipstone.runtime.engine.calls import Call
from skipstone.runtime.engine.feed import WHOLE, Blends, Feed, Part, TreeMask
from skipstone.runtime.engine.rounding import ANY_ROWS, FREE_ROWS, NEVER, RowRules
from skipstone.runtime.engine.workspace import Workspace

__all__ = ["PADDING_ID", "PREFILL_CHUNK", "Runner"]

# Longer prompts are fed in pieces: attention scores of a piece stay in the cache, and Ctrl-C is heard between two.
PREFILL_CHUNK: Final = 256
PADDING_ID: Final = 0


class Runner:
    """Runs parts of a model on the tokens of one text, in the workspace of that text.

    It feeds as many rows as `rules` say, some that nobody reads: kernels may round a row alone, or an odd last one, in
    another way. By the rules that `measure_rounding` finds, the logits of a token are the same bits, drafted or not.

    Invariant: it knows nothing of the text but which angles its rows have; whoever calls says where tokens go.
    """

    def __init__(self, workspace: Workspace, *, rules: RowRules = ANY_ROWS, chunk: int = PREFILL_CHUNK) -> None:
        """`chunk` is the number of tokens of a piece of a prompt.

        Where a call takes one row behind cached ones, an empty cache gets all of a prompt at once: `most_at_once`.
        """
        self._workspace, self.rules, self.chunk = workspace, rules, chunk
        self.takes_several_rows = Capability.SEVERAL_ROWS in workspace.sessions.device.capabilities
        self.most_at_once = chunk if self.takes_several_rows else NEVER
        layouts = {layer.ring_layout for layer in workspace.sessions.manifest.cache}
        self._ring_layouts = [layout for layout in layouts if layout is not None]
        self.num_given = 0  # tokens of a prompt, whose rows have the same bits in whatever pieces they are fed
        self.is_long = False  # whether rows have the angles of long texts, further down in the rotary tables

    def position(self, place: int) -> int:
        """Return which row of the rotary tables the token at a place of the text takes."""
        return place + (self._workspace.sessions.manifest.context_length if self.is_long else 0)

    def pieces(self, token_ids: list[int], num_logits: int, *, is_tree: bool) -> Iterator[list[int]]:
        """Yield the tokens in pieces; the last has at least the `num_logits` last ones, and a tree's only those."""
        most = num_logits if is_tree else max(self.most_at_once, num_logits)
        while len(token_ids) > most:
            size = min(self.most_at_once, len(token_ids) - num_logits)
            yield token_ids[:size]
            token_ids = token_ids[size:]
        yield token_ids

    def bind(self, num_rows: int, *, length: int) -> None:
        """Bind the call of so many tokens behind `length`, with logits for each, so that its first takes no longer."""
        rules, is_alone = self._rules_at(num_rows, length, WHOLE)
        rows = _rows(range(num_rows), WHOLE, rules)
        self._workspace.call(Feed.of([PADDING_ID] * rules.layers.fed(num_rows), rows=rows, alone=is_alone))

    def run(
        self,
        token_ids: SequenceOf[int],
        asked: range,
        part: Part = WHOLE,
        *,
        length: int,
        hidden: SequenceOf[NDArray[np.float32]] = (),
        tree: TreeMask | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run a part on tokens behind `length` others; return hidden states [T, E] and logits, until the next call.

        `asked` are the tokens, to the last, whose logits [len(asked), V] are wanted; none for a part without the head.
        `hidden` are the rows that a later part reads. Where rows leave a cache on the way, or the device takes one row
        a call, there are two calls or more.
        """
        if self._next_call(len(token_ids), length) == len(token_ids):
            return self._run_at_once(token_ids, asked, part, length=length, hidden=hidden, tree=tree)
        states, logits = [], []
        for piece in self._calls(len(token_ids), length):
            num_asked = max(0, piece.stop - max(asked.start, piece.start)) if part.head else 0
            here = replace(part, head=num_asked > 0)
            given = self._run_at_once(
                token_ids[piece.start : piece.stop],
                range(len(piece) - num_asked, len(piece)) if num_asked else range(0),
                here,
                length=length + piece.start,
                hidden=hidden[piece.start : piece.stop],
            )
            states.append(given[0].copy())
            logits.append(given[1].copy())
        return np.concatenate(states), np.concatenate([rows for rows in logits if len(rows)] or logits[-1:])

    def _calls(self, num_tokens: int, length: int) -> Iterator[range]:
        """Yield which tokens behind `length` others go into one call each."""
        start = 0
        while start < num_tokens:
            end = start + self._next_call(num_tokens - start, length + start)
            yield range(start, end)
            start = end

    def _next_call(self, num_tokens: int, length: int) -> int:
        """Return how many of the tokens behind `length` others one call takes: until rows leave a cache, and one behind
        cached ones where the device takes no more."""
        if length and not self.takes_several_rows:
            return 1
        return min([num_tokens, *(layout.next_turn(length) - length for layout in self._ring_layouts)])

    def _run_at_once(
        self,
        token_ids: SequenceOf[int],
        asked: range,
        part: Part,
        *,
        length: int,
        hidden: SequenceOf[NDArray[np.float32]],
        tree: TreeMask | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rules, is_alone = self._rules_at(len(token_ids), length, part)
        fed = [*token_ids, *[PADDING_ID] * (rules.layers.fed(len(token_ids)) - len(token_ids))]
        feed = Feed(
            np.asarray(fed)[None, :, None],
            np.asarray([length]),
            _rows(asked, part, rules),
            np.asarray([self.position(length)]),
            tree=tree,
            alone=is_alone,
        )
        if hidden:
            # What memory holds by chance may be no number, and spoil the others: rows that pad are zeros.
            feed.hidden = np.zeros((len(fed), len(hidden[0])), np.float32)
            feed.hidden[: len(hidden)] = hidden
        call, logits = self._run(feed, asked, part)
        return call.hidden[0, : len(token_ids)], logits

    def run_blends(self, blends: Blends, *, length: int) -> NDArray[np.float32]:
        """Run the model on blends behind `length` rows; return the logits [T, V] of each, until the next call."""
        if self._next_call(len(blends), length) < len(blends):
            logits = []
            for piece in self._calls(len(blends), length):
                at = slice(piece.start, piece.stop)
                part = Blends(blends.token_ids[at], blends.weights[at])
                logits.append(self.run_blends(part, length=length + piece.start).copy())
            return np.concatenate(logits)
        rules, is_alone = self._rules_at(len(blends), length, WHOLE)
        num_padding, asked = rules.layers.fed(len(blends)) - len(blends), range(len(blends))
        token_ids, weights = (
            np.concatenate([values, *[values[-1:]] * num_padding]) for values in (blends.token_ids, blends.weights)
        )
        rows, start = _rows(asked, WHOLE, rules), self.position(length)
        feed = Feed(token_ids[None], np.asarray([length]), rows, np.asarray([start]), weights[None])
        feed.alone = is_alone
        return self._run(feed, asked, WHOLE)[1]

    def run_in_pieces(
        self, token_ids: SequenceOf[int], part: Part, *, length: int, hidden: SequenceOf[NDArray[np.float32]] = ()
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run a part, many tokens in pieces; return hidden states [T, E] and the last token's logits."""
        rows = []
        for start in range(0, len(token_ids), self.most_at_once):
            piece = token_ids[start : start + self.most_at_once]
            is_last = start + len(piece) == len(token_ids)
            here = part if is_last else replace(part, head=False)
            asked = range(len(piece) - 1, len(piece)) if here.head else range(0)
            states = hidden[start : start + len(piece)]
            given, logits = self.run(piece, asked, here, length=length + start, hidden=states)
            rows.append(given.copy())
        return np.concatenate(rows), logits

    def read(self, token_ids: SequenceOf[int], part: Part, *, length: int) -> None:
        """Run a part without a head on tokens behind `length` others, for what it writes to the cache.

        No rows are added: its products must give a row the same bits whatever is beside it.
        """
        for piece in self._calls(len(token_ids), length):
            tokens, place = token_ids[piece.start : piece.stop], length + piece.start
            start = np.asarray([self.position(place)])
            feed = Feed(np.asarray(tokens)[None, :, None], np.asarray([place]), range(0), start)
            self._workspace.call(feed, part).run(feed)

    def _rules_at(self, num_rows: int, length: int, part: Part) -> tuple[RowRules, bool]:
        """Return the rules for rows behind `length` others, and whether they are a single one that goes as it is.

        What fewer experts give is a guess, and may round as it likes.
        """
        rules = FREE_ROWS if part.active else self.rules
        is_behind = length >= max(rules.alone_from, self.num_given)
        is_alone = num_rows == 1 and (is_behind or not self.takes_several_rows)
        return (FREE_ROWS if is_alone else rules), is_alone

    def _run(self, feed: Feed, asked: range, part: Part) -> tuple[Call, NDArray[np.float32]]:
        call = self._workspace.call(feed, part)
        return call, call.run(feed)[: len(asked)]


def _rows(asked: range, part: Part, rules: RowRules) -> range | tuple[int, ...]:
    """Return the rows whose logits are computed: those asked for, the last of them again where rules say so."""
    if not part.head:
        return range(0)
    num_more = rules.head.fed(len(asked)) - len(asked)
    if not num_more or part.pruned:  # guesses may round as they like
        return asked
    return (*asked, *[asked[-1]] * num_more)

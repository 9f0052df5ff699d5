"""One text on one device: its tokens, its cache, and the way back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.engine.ahead import EarlyRows
from skipstone.runtime.engine.call import BoundCall
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import WHOLE, Part, TreeMask
from skipstone.runtime.engine.optimum_call import WrappedCall
from skipstone.runtime.engine.runner import PADDING_ID, PREFILL_CHUNK
from skipstone.runtime.engine.workspace import Workspace

if TYPE_CHECKING:
    from skipstone.runtime.engine.model import Model

__all__ = ["Sequence"]


class Sequence:
    """The tokens of one text and the cache of what the model has seen of them.

    Invariant: `num_cached` < len(token_ids) unless both are 0: the last token is pending, emitted and not yet in the
    cache. Between `extend` and `commit` the cache also holds the draft's rows. Not safe to share between threads.

    An `exact` sequence feeds rows in pairs: kernels take two rows at a time and round an odd last one differently, so
    an odd call gets one more row that nobody reads. Then the logits of a token are the same bits, drafted or not.

    Some models (LongRoPE) have other angles for all positions of a text once it is longer than `long_rope_from` tokens.
    At the call that crosses this length, in either direction, the whole text is fed again.

    The first stages may run ahead: `peek` feeds them guesses, and the next `extend` feeds the other stages what the
    first ones gave. So no stage sees a token twice, and each stage's cache has a length of its own.
    """

    def __init__(self, model: Model, workspace: Workspace, *, exact: bool = False) -> None:
        self._model, self._workspace, self.exact = model, workspace, exact
        self._cache = workspace.cache
        self._draft: Draft | None = None
        self._early: EarlyRows | None = None
        self._is_long = False  # which angles the cached rows have
        self.token_ids: list[int] = []
        self.num_cached = 0
        self.num_peeked = 0  # how many tokens of the last call the first stages had seen before

    @property
    def capacity(self) -> int:
        """How many tokens fit; in an exact sequence one row is kept for padding."""
        return self._cache.capacity - (1 if self.exact else 0)

    @property
    def num_waiting(self) -> int:
        """How many tokens the next `extend` feeds before the draft: 1 when only the last is pending."""
        return len(self.token_ids) - self.num_cached

    @property
    def takes_trees(self) -> bool:
        """Whether drafts may branch: not in an exact sequence, whose order of rows must be that of the text, nor where
        layers see a window, which counts rows, nor in a graph of optimum, which sees all rows before."""
        manifest = self._model.manifest
        in_order = self.exact or manifest.graph == "optimum" or any(layer.window for layer in manifest.cache)
        return not in_order and "tree-attention" in self._model.device.capabilities

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self.capacity - len(self.token_ids)

    @property
    def draft_room(self) -> int:
        """How many guesses the next call can verify: those that fit before positions change."""
        border = self._model.manifest.long_rope_from
        until = self.room if border is None else border - len(self.token_ids)
        return self.room if until < 0 else min(self.room, until)

    @property
    def is_stale(self) -> bool:
        """Whether the cached rows have the angles of another length, so that the next `extend` feeds the text again."""
        border = self._model.manifest.long_rope_from
        return border is not None and self.num_cached > 0 and self._is_long != (len(self.token_ids) > border)

    @property
    def next_position(self) -> int:
        """Which row of the rotary tables the next token takes."""
        return self.num_cached + (self._model.manifest.context_length if self._is_long else 0)

    def append(self, token_ids: SequenceOf[int]) -> None:
        """Add tokens that are given, not guessed; the next `extend` feeds them. Raises: CacheFull, ConfigError."""
        self.require_room(len(token_ids))
        self._require_known(token_ids)
        self.token_ids.extend(token_ids)
        self._leave_pending()

    def require_room(self, num_tokens: int) -> None:
        """Raise CacheFull unless `num_tokens` more fit."""
        needed = len(self.token_ids) + num_tokens
        if needed > self.capacity:
            raise CacheFull(
                f"cache holds {self.capacity} tokens, {needed} needed; raise the context or shorten the prompt"
            )

    def require_feedable(self, draft: Draft) -> None:
        """Raise CacheFull or ConfigError for a draft that `extend` would refuse."""
        self.require_room(len(draft))
        self._require_known(draft.token_ids)
        if len(draft) > self.draft_room:
            raise ConfigError(f"positions change after {self.draft_room} more tokens, and {len(draft)} were drafted")
        if not draft.is_chain and not self.takes_trees:
            raise ConfigError(
                "this sequence takes chains only: it is exact, layers see a window, or optimum made the graph"
            )
        if not draft.is_chain and len(self.token_ids) == 1:  # on an empty cache all rows get the first one's position
            raise ConfigError("a tree needs a token before the pending one; feed a chain, or no draft, first")

    def _require_known(self, token_ids: SequenceOf[int]) -> None:
        vocab_size = self._model.manifest.dimensions.vocab_size
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise ConfigError(f"token id {token_id} is outside the vocabulary of {vocab_size}")

    def _leave_pending(self) -> None:
        """Forget the draft of the last `extend`, and that it cached the last token."""
        self.num_cached = min(self.num_cached, max(len(self.token_ids) - 1, 0))
        self._draft = None

    def peek(
        self, token_ids: SequenceOf[int], *, num_stages: int, then: tuple[int, ...] = (), drafting: bool = False
    ) -> NDArray[np.float32]:
        """Show the first stages tokens behind the cached ones; only those they have not seen since are fed.

        The first must be those that wait, as `extend` will feed them. What fewer stages have seen goes on to the others
        from there. With `then`, numbers of later stages, ascending, these go on from what the first ones gave, and
        those between are left out. `drafting`: the logits are for guesses only, and those of the draft head where the
        bundle has one, -inf for tokens that it does not know.
        Returns logits [V] for what follows the last token; valid until the next call. Raises: CacheFull; ConfigError
        for no token, or one that is outside the vocabulary, and for an exit or stages that the model lacks.
        """
        early, new = self._ahead(token_ids, num_stages, then)
        first, hidden = 0, list[NDArray[np.float32]]()
        if early.num_stages < num_stages:
            first, hidden, new = early.num_stages, self._seen(early, new), [*token_ids]
            early = self._early = EarlyRows(num_stages, self.num_cached)
        ahead = len(early.token_ids)
        pruned = drafting and self._model.manifest.draft_head is not None
        if pruned:
            self._workspace.draft_vocabulary.follow(self.token_ids)
        part = Part(range(first, num_stages), head=not then, exit=num_stages, pruned=pruned)
        rows, logits = self._run_ahead(new, part, ahead=ahead, hidden=hidden)
        early.add(new, rows)
        if then:
            last = range(len(new) - 1, len(new))
            _, logits = self._run(new, last, Part(then, pruned=pruned), ahead=ahead, hidden=early.rows[ahead:])
        row: NDArray[np.float32] = logits[-1]
        return row

    def _seen(self, early: EarlyRows, new: SequenceOf[int]) -> list[NDArray[np.float32]]:
        """Show new tokens to the stages that saw the others; return the rows [E] of all."""
        if not new:
            return early.rows
        part = Part(range(early.num_stages), head=False)
        return [*early.rows, *self._run_ahead(new, part, ahead=len(early.token_ids))[0]]

    def _run_ahead(
        self, token_ids: SequenceOf[int], part: Part, *, ahead: int, hidden: SequenceOf[NDArray[np.float32]] = ()
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run a part as `_run` does, many tokens in pieces; return hidden states [T, E] and the last token's logits."""
        rows = []
        for start in range(0, len(token_ids), PREFILL_CHUNK):
            piece = token_ids[start : start + PREFILL_CHUNK]
            is_last = start + len(piece) == len(token_ids)
            here = part if is_last else replace(part, head=False)
            asked = range(len(piece) - 1, len(piece)) if here.head else range(0)
            states = hidden[start : start + len(piece)]
            call, logits = self._run(piece, asked, here, ahead=ahead + start, hidden=states)
            rows.append(call.hidden[0, : len(piece)].copy())
        return np.concatenate(rows), logits

    def peek_hidden(self, token_ids: SequenceOf[int], *, num_stages: int) -> NDArray[np.float32]:
        """Peek without the head; return hidden states [2, E] of the last token, before and after the last stage.

        There must be a stage before the last, whose end is the first of the two. `peek_logits` goes on from here.
        Raises: as `peek`.
        """
        if num_stages < 2:
            raise ConfigError("no hidden states go into the first stage; peek at two stages or more")
        if self._early is not None and self._early.num_stages < num_stages:
            self._early = None
        early, new = self._ahead(token_ids, num_stages, ())
        ahead, nothing = len(early.token_ids), range(0)
        call, _ = self._run(new, nothing, Part(range(num_stages - 1), head=False), ahead=ahead)
        before = [*call.hidden[0, : len(new)].copy()]
        last_stage = Part(range(num_stages - 1, num_stages), head=False)
        call, _ = self._run(new, nothing, last_stage, ahead=ahead, hidden=before)
        early.add(new, call.hidden[0])
        return np.stack([before[-1], early.rows[-1]])

    def peek_logits(self) -> NDArray[np.float32]:
        """Return the exit's logits [V] for what follows the last token that was peeked at; valid until the next call.

        Raises: ConfigError when nothing was, since the last `extend`.
        """
        early = self._early
        if early is None or not early.token_ids:
            raise ConfigError("nothing was peeked at; call peek_hidden first")
        part = Part((), exit=early.num_stages)
        row: NDArray[np.float32] = self._run(early.token_ids[-1:], range(1), part, hidden=early.rows[-1:])[1][0]
        return row

    def _ahead(self, token_ids: SequenceOf[int], num_stages: int, then: tuple[int, ...]) -> tuple[EarlyRows, list[int]]:
        """Return what first stages have seen of these tokens, and the others.

        The last is one of the others, unless more stages are asked for than those that have seen it.
        """
        total = len(self._model.manifest.stages)
        if not 0 < num_stages < total:
            raise ConfigError(f"the model has no exit after {num_stages} of {total} stages")
        if any(one >= other for one, other in itertools.pairwise((num_stages - 1, *then, total))):
            raise ConfigError(f"later stages lie between {num_stages} and {total - 1}, ascending; got {then}")
        if not token_ids:
            raise ConfigError("there is no token to peek at; give those that wait first")
        self._require_known(token_ids)
        if self._draft is not None:
            self._leave_pending()
        self._turn()
        self.require_room(self.num_cached + len(token_ids) - len(self.token_ids))
        early = self._early
        if early is None or not early.serves(num_stages, self.num_cached, then):
            early = self._early = EarlyRows(num_stages, self.num_cached)
        most = len(token_ids) - (early.num_stages == num_stages)
        early.cut(min(early.num_shared(self.num_cached, token_ids), most))
        early.then = then
        return early, [*token_ids[len(early.token_ids) :]]

    def extend(self, draft: Draft) -> NDArray[np.float32]:
        """Feed all tokens that are not cached and then the draft; return logits for what follows each of the last.

        Returns [1 + N, V]: row 0 follows the pending token, row i the i-th drafted one. It is the call's own buffer,
        valid until the next call. Raises: CacheFull before any work when the draft does not fit; ConfigError for a tree
        where `takes_trees` is False.
        """
        if not self.token_ids:
            raise ConfigError("the text is empty; append at least one token")
        self.require_feedable(draft)
        self._leave_pending()
        self._turn()
        is_tree = not draft.is_chain
        waiting = [*self.token_ids[self.num_cached :], *draft.token_ids]
        num_logits = 1 + len(draft)
        most = num_logits if is_tree else max(PREFILL_CHUNK, num_logits)
        while len(waiting) > most:
            size = min(PREFILL_CHUNK, len(waiting) - num_logits)
            self._feed(waiting[:size], num_logits=1)
            waiting = waiting[size:]
        logits = self._feed(waiting, num_logits=num_logits, tree=TreeMask(draft) if is_tree else None)
        self._early = None
        self.num_cached -= len(draft)
        self._draft = draft
        return logits

    def _turn(self) -> None:
        """Take the angles of the text's length; forget rows that have others."""
        border = self._model.manifest.long_rope_from
        if self.is_stale:
            self.num_cached = 0
        is_long = border is not None and len(self.token_ids) > border
        if is_long != self._is_long:
            self._is_long, self._early = is_long, None

    def mark_extended(self) -> None:
        """Note that a batched call has fed the pending token, as `extend` with an empty draft would."""
        self.num_cached += 1
        self._draft = Draft.empty()

    def _feed(
        self, token_ids: SequenceOf[int], *, num_logits: int, tree: TreeMask | None = None
    ) -> NDArray[np.float32]:
        """Feed tokens behind the cached ones, those that were peeked at to the later stages only."""
        early, self._early = self._early, None
        self.num_peeked = early.num_shared(self.num_cached, token_ids) if early and tree is None else 0
        if early and self.num_peeked:
            logits = self._catch_up(early, token_ids, num_logits)
        else:
            _, logits = self._run(token_ids, range(len(token_ids) - num_logits, len(token_ids)), WHOLE, tree=tree)
        self.num_cached += len(token_ids)
        return logits

    def _catch_up(self, early: EarlyRows, token_ids: SequenceOf[int], num_logits: int) -> NDArray[np.float32]:
        """Feed the first stages what they have not seen of the tokens, then the others all of them."""
        num_seen, num_tokens = self.num_peeked, len(token_ids)
        rows = early.rows[:num_seen]
        if rest := token_ids[num_seen:]:
            call, _ = self._run(rest, range(0), Part(range(early.num_stages), head=False), ahead=num_seen)
            rows = [*rows, *call.hidden[0, : len(rest)]]
        else:
            self._early = early.behind(num_tokens)
        asked = range(num_tokens - num_logits, num_tokens)
        late = range(early.num_stages, len(self._model.manifest.stages))
        return self._run(token_ids, asked, Part(late), hidden=rows)[1]

    def _run(
        self,
        token_ids: SequenceOf[int],
        asked: range,
        part: Part,
        *,
        ahead: int = 0,
        hidden: SequenceOf[NDArray[np.float32]] = (),
        tree: TreeMask | None = None,
    ) -> tuple[BoundCall | WrappedCall, NDArray[np.float32]]:
        """Run a part on tokens that come `ahead` places behind the cached ones; return the call and its logits.

        `asked` are the tokens, to the last, whose logits [len(asked), V] are wanted; none for a part without the head.
        `hidden` are the rows that a later part reads.
        """
        fed, first = [*token_ids], asked.start
        if self.exact and len(fed) % 2:
            fed.append(PADDING_ID)
        in_pairs = self.exact and not part.pruned  # guesses may round as they like
        if in_pairs and part.head and (len(fed) - first) % 2 and first:
            first -= 1
        rows = range(first, len(fed) if in_pairs else len(token_ids)) if part.head else range(0)
        call = self._workspace.call(len(fed), rows, part)
        if hidden:
            call.hidden[0, : len(hidden)] = hidden
            call.hidden[0, len(hidden) :] = 0  # what memory holds by chance may be no number, and spoil the others
        lengths, starts = np.asarray([self.num_cached + ahead]), np.asarray([self.next_position + ahead])
        logits = call.run(np.asarray([fed]), lengths, starts=starts, tree=tree)
        return call, logits[asked.start - first :][: len(asked)]

    def commit(self, accepted: SequenceOf[int]) -> list[int]:
        """Take over what was accepted after `extend`: a path of the draft, then at most one other token.

        Returns the rows of the draft that stay in the cache, row 0 first.
        """
        draft = self._draft
        if draft is None or not accepted:
            raise ConfigError("commit needs an extend before it and at least one accepted token")
        rows = draft.path(accepted)
        if len(accepted) > len(rows):
            raise ConfigError(f"{len(accepted)} tokens accepted, but the draft explains only the first {len(rows) - 1}")
        self.require_room(len(accepted))
        self._require_known(accepted)
        self._cache.move([self.num_cached - 1 + row for row in rows], start=self.num_cached - 1)
        self.token_ids.extend(accepted)
        self.num_cached += len(rows) - 1
        self._leave_pending()
        return rows

    def rollback(self, length: int) -> None:
        """Forget all but the first `length` tokens; copies nothing."""
        if not 0 <= length <= len(self.token_ids):
            raise ConfigError(f"cannot go back to {length} tokens, the text has {len(self.token_ids)}")
        del self.token_ids[length:]
        self._early = None
        self._leave_pending()

    def fork(self) -> Sequence:
        """Return an independent copy; the cached rows are copied, those of a draft too."""
        twin = self._model.new_sequence(context_length=self._cache.capacity, exact=self.exact)
        twin._cache.copy_from(self._cache, self.num_cached + len(self._draft or ()))
        twin.token_ids, twin.num_cached, twin._draft = list(self.token_ids), self.num_cached, self._draft
        twin._is_long = self._is_long
        return twin

    def check(self) -> None:
        """Raise AssertionError if the invariant is broken; for tests."""
        pending = 0 if self._draft is not None or not self.token_ids else 1
        assert 0 <= self.num_cached <= len(self.token_ids) - pending, (self.num_cached, len(self.token_ids))
        assert len(self.token_ids) <= self.capacity

"""One text on one device: its tokens, its cache, and the way back."""

from __future__ import annotations

import weakref
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.option_types import checked
from skipstone.runtime.engine.ahead import Ahead
from skipstone.runtime.engine.device_fit import require_several_rows, why_chains
from skipstone.runtime.engine.draft import Draft
from skipstone.runtime.engine.feed import Blends, Part, TreeMask
from skipstone.runtime.engine.prompt_reader import PromptReader
from skipstone.runtime.engine.reading import current_watch
from skipstone.runtime.engine.room import memory_told
from skipstone.runtime.engine.rounding import FREE_ROWS, NEVER, RowRules
from skipstone.runtime.engine.runner import PREFILL_CHUNK, Runner
from skipstone.runtime.engine.sessions import Sessions
from skipstone.runtime.engine.shared_tokens import num_shared
from skipstone.runtime.engine.workspace import Spares, Workspace

__all__ = ["Sequence"]


class Sequence:
    """The tokens of one text and the cache of what the model has seen of them.

    Invariant: `num_cached` < len(token_ids) unless both are 0: the last token is pending, emitted and not yet in the
    cache. Between `extend` and `commit` the cache also holds the draft's rows. Not safe to share between threads.

    An exact sequence gives a token the bits that plain decoding gives it: it feeds rows by its `rules`, see `Runner`,
    and has room for drafts up to the length at which they end. The rows of a prompt, which `begin` tells, have the same
    bits in whatever pieces they are read.

    Some models (LongRoPE) have other angles for all positions of a text once it is longer than `long_rope_from` tokens.
    At the call that crosses this length, in either direction, the whole text is fed again.

    The first stages may run ahead: `peek` feeds them guesses, and the next `extend` feeds the other stages what the
    first ones gave. So no stage sees a token twice, and each stage's cache has a length of its own.

    Layers that see a window may keep the last rows of a long text only. A text that goes back beyond them is fed again
    from its beginning.

    Blends of tokens, or rows that branch, may follow a text that is cached to its last token; no text comes of them,
    and their rows are forgotten by whatever else is done to the sequence.
    """

    def __init__(
        self,
        workspace: Workspace,
        spares: Spares,
        *,
        rules: RowRules | None = None,
        chains_only: bool = False,
        takes_drafts: bool = True,
        prefill_chunk: int = PREFILL_CHUNK,
        reads_apart: bool = False,
    ) -> None:
        """`spares` gives a fork its workspace; `prefill_chunk` is the number of tokens of a piece of a prompt.

        Without `rules` the sequence is exact only where it takes no drafts. With `chains_only` none branches.
        With `reads_apart` graphs of their own read prompts; see `PromptReader`.
        """
        self._workspace, self._spares = workspace, spares
        self._manifest, self.cache = workspace.sessions.manifest, workspace.cache
        self.rules, self._chains_only, self._takes_drafts = rules, chains_only, takes_drafts
        self._runner = Runner(workspace, rules=rules or FREE_ROWS, chunk=prefill_chunk)
        # How many tokens fit. A row that the rules add has a position too, and older graphs know no more of them.
        adds_rows = self._runner.rules.layers != FREE_ROWS.layers
        self.capacity = min(self.cache.capacity, self._manifest.context_length - adds_rows)
        self.ahead = Ahead(self._runner, self._manifest)
        self._reader = PromptReader(self._runner, is_on=reads_apart)
        self._draft: Draft | None = None
        self._num_behind = 0  # rows of blends or branches behind the cached tokens
        self.token_ids: list[int] = []
        self.num_cached = 0
        self.num_peeked = 0  # how many tokens of the last call the first stages had seen before

    @classmethod
    def open(
        cls,
        spares: Spares,
        capacity: int | None,
        *,
        rules: RowRules | None = None,
        chains_only: bool = False,
        takes_drafts: bool = True,
        prefill_chunk: int = PREFILL_CHUNK,
        reads_apart: bool = False,
    ) -> Sequence:
        """Return an empty sequence in a workspace of `spares`, which get it back when the sequence is gone.

        It has room for `capacity` tokens, by default all that the model can see. Raises: ConfigError for more.
        """
        workspace = spares.take(capacity)
        sequence = cls(
            workspace,
            spares,
            rules=rules,
            chains_only=chains_only,
            takes_drafts=takes_drafts,
            prefill_chunk=prefill_chunk,
            reads_apart=reads_apart,
        )
        weakref.finalize(sequence, spares.give, workspace).atexit = False
        return sequence

    @property
    def exact(self) -> bool:
        """Whether a token has the bits of plain decoding, with every drafter."""
        return self.rules is not None or not self._takes_drafts

    @property
    def drafts_until(self) -> int:
        """How long the text may be for drafts to be verified to the bit; a text that is not exact has no such end."""
        if not self._takes_drafts:
            return 0
        return NEVER if self.rules is None else self.rules.alone_from

    @property
    def num_waiting(self) -> int:
        """How many tokens the next `extend` feeds before the draft: 1 when only the last is pending."""
        return len(self.token_ids) - self.num_cached

    @property
    def takes_trees(self) -> bool:
        """Whether drafts may branch: not where only chains are wanted or rows are added, nor where layers see a window,
        which counts rows, nor in a graph of optimum, which sees all rows before, nor on a device that cannot."""
        return self._why_no_trees() is None

    def _why_no_trees(self) -> str | None:
        """Return why drafts may not branch; None where they may."""
        is_exact = self._chains_only or self._runner.rules.adds_rows
        return "it is exact" if is_exact else why_chains(self._manifest, self.sessions.device)

    @property
    def takes_batches(self) -> bool:
        """Whether copies of the text may be fed together: not where rows must round as alone, nor in a graph of
        optimum."""
        return self.rules is None and not self._manifest.is_traced

    @property
    def takes_blends(self) -> bool:
        """Whether blends of tokens may follow the text: graphs of optimum and of fixed shapes take tokens only."""
        return not self._manifest.is_traced and self.sessions.buckets is None

    @property
    def sessions(self) -> Sessions:
        """The graphs that the text is fed to."""
        return self._workspace.sessions

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self.capacity - len(self.token_ids)

    @property
    def draft_room(self) -> int:
        """How many guesses the next call can verify: those that fit before positions change, and before an exact text
        takes its rows one by one, where the device takes several rows."""
        if not self._runner.takes_several_rows:
            return 0
        return max(0, min(self.steady_room, self.drafts_until - len(self.token_ids)))

    @property
    def steady_room(self) -> int:
        """How many more tokens fit before positions change."""
        border = self._manifest.long_rope_from
        until = self.room if border is None else border - len(self.token_ids)
        return self.room if until < 0 else min(self.room, until)

    @property
    def is_stale(self) -> bool:
        """Whether the cached rows have the angles of another length, so that the next `extend` feeds the text again."""
        return self.num_cached > 0 and self._runner.is_long != self.will_be_long

    @property
    def is_long(self) -> bool:
        """Whether the cached rows have the angles of long texts."""
        return self._runner.is_long

    @property
    def will_be_long(self) -> bool:
        """Whether the next `extend` takes the angles of long texts."""
        border = self._manifest.long_rope_from
        return border is not None and len(self.token_ids) > border

    @property
    def prefill_chunk(self) -> int:
        """The number of tokens of a piece of a prompt."""
        return self._runner.chunk

    @property
    def reads_apart(self) -> bool:
        """Whether graphs of their own read prompts."""
        return self._reader.is_on

    @property
    def is_unread(self) -> bool:
        """Whether all tokens there are belong to a prompt of which nothing is cached."""
        is_prompt = not self.reads_apart or self._reader.num_prompt == len(self.token_ids)
        return is_prompt and bool(self.token_ids) and not self.num_cached

    @property
    def next_position(self) -> int:
        """Which row of the rotary tables the next token takes."""
        return self._runner.position(self.num_cached)

    def append(self, token_ids: SequenceOf[int]) -> None:
        """Add tokens that are given, not guessed; the next `extend` feeds them. Raises: CacheFull, ConfigError."""
        if not isinstance(token_ids, list) or any(type(token_id) is not int for token_id in token_ids):
            token_ids = checked("token_ids", token_ids, tuple[int, ...])
        self.require_room(len(token_ids))
        self._require_known(token_ids)
        self.token_ids.extend(token_ids)
        self._leave_pending()

    def hold(self, token_ids: SequenceOf[int]) -> None:
        """Hold these tokens in place of the text; of what both begin with all stays cached. Raises: as `append`."""
        shared = num_shared(self.token_ids, token_ids)
        self.rollback(shared)
        self.append(token_ids[shared:])

    def begin(self) -> None:
        """Let all tokens that are there be the prompt of the text that follows, whose rows are never fed alone.

        Where graphs of their own read prompts, rows that decoding wrote are forgotten, so that a text does not depend
        on what was cached.
        """
        self._runner.num_given = 0 if self.rules is None else len(self.token_ids)
        kept = self._reader.begin(len(self.token_ids), self.num_cached)
        if kept < self.num_cached:
            self.num_cached = kept
            self.ahead.forget()
            self._leave_pending()
            self._forget_what_left()

    def require_room(self, num_tokens: int) -> None:
        """Raise CacheFull unless `num_tokens` more fit."""
        needed = len(self.token_ids) + num_tokens
        if needed > self.capacity:
            raise CacheFull(f"cache holds {self.capacity} tokens, {needed} needed; {self._advice(needed)}")

    def _advice(self, needed: int) -> str:
        """Say what to do where `needed` tokens do not fit."""
        most, sessions = self._manifest.context_length, self._workspace.sessions
        if needed > most or self.cache.capacity >= most:
            return f"the model sees no more than {most}: shorten the prompt, or ask for fewer new tokens"
        takes = memory_told(self._manifest, sessions.cache_type, needed)
        return f"raise the context up to {most} (--context, context_length), which takes {takes}, or shorten the prompt"

    def require_feedable(self, draft: Draft) -> None:
        """Raise CacheFull or ConfigError for a draft that `extend` would refuse."""
        self.require_room(len(draft))
        self._require_known(draft.token_ids)
        if len(draft):
            require_several_rows(self.sessions.device)
        if len(draft) > self.steady_room:
            raise ConfigError(f"positions change after {self.steady_room} more tokens, and {len(draft)} were drafted")
        if not draft.is_chain and (reason := self._why_no_trees()):
            raise ConfigError(f"this sequence takes chains only: {reason}")
        if not draft.is_chain and len(self.token_ids) == 1:  # on an empty cache all rows get the first one's position
            raise ConfigError("a tree needs a token before the pending one; feed a chain, or no draft, first")

    def _require_known(self, token_ids: SequenceOf[int]) -> None:
        vocab_size = self._manifest.dimensions.vocab_size
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise ConfigError(f"token id {token_id} is outside the vocabulary of {vocab_size}")

    def _leave_pending(self) -> None:
        """Forget the draft of the last `extend`, and that it cached the last token."""
        self.num_cached = min(self.num_cached, max(len(self.token_ids) - 1, 0))
        self._draft, self._num_behind = None, 0
        self._forget_what_left()

    def _forget_what_left(self) -> None:
        """Let the text be fed again from its beginning where rows that it needs have left the cache."""
        if self.num_cached and not self.cache.holds(self.num_cached):
            self.num_cached = 0
            self._reader.mark(0)
            self.ahead.forget()

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
        self.ahead.require_stages(num_stages, then)
        token_ids = self._make_way(token_ids)
        pruned = drafting and self._manifest.draft_head is not None
        if pruned:
            self._workspace.draft_vocabulary.follow(self.token_ids)
        return self.ahead.peek(token_ids, start=self.num_cached, num_stages=num_stages, then=then, pruned=pruned)

    def peek_by(self, token_ids: SequenceOf[int], part: Part) -> NDArray[np.float32]:
        """Show a variant of the whole model tokens behind the cached ones, as `peek` does with the first stages.

        What it caches are guesses: the next `extend` feeds the tokens anew and writes over them. Returns logits [V] for
        what follows the last token; valid until the next call. Raises: as `peek`.
        """
        self._make_way(token_ids)
        return self.ahead.peek_by(token_ids, start=self.num_cached, part=part)

    def peek_hidden(self, token_ids: SequenceOf[int], *, num_stages: int) -> NDArray[np.float32]:
        """Peek without the head; return hidden states [2, E] of the last token, before and after the last stage.

        There must be a stage before the last, whose end is the first of the two. `peek_logits` goes on from here.
        Raises: as `peek`.
        """
        if num_stages < 2:
            raise ConfigError("no hidden states go into the first stage; peek at two stages or more")
        self.ahead.require_stages(num_stages)
        token_ids = self._make_way(token_ids)
        return self.ahead.peek_hidden(token_ids, start=self.num_cached, num_stages=num_stages)

    def peek_logits(self) -> NDArray[np.float32]:
        """Return the exit's logits [V] for what follows the last token that was peeked at; valid until the next call.

        Raises: ConfigError when nothing was, since the last `extend`.
        """
        return self.ahead.peek_logits()

    def _make_way(self, token_ids: SequenceOf[int]) -> SequenceOf[int]:
        """Get ready to peek at tokens behind the cached ones; return those that were not read on the way."""
        if not token_ids:
            raise ConfigError("there is no token to peek at; give those that wait first")
        self._require_known(token_ids)
        if self._draft is not None:
            self._leave_pending()
        self._forget_what_left()
        self._turn()
        self.require_room(self.num_cached + len(token_ids) - len(self.token_ids))
        num_cached = self.num_cached
        self._read()
        return token_ids[self.num_cached - num_cached :]

    def prepare(self, most_guesses: int) -> None:
        """Make ready for drafts of up to so many guesses: the first call of each length would take longer else."""
        most = min(most_guesses, self.capacity - 1, self.draft_room)
        for num_rows in range(1, 2 + most):
            self._runner.bind(num_rows, length=len(self.token_ids))

    def extend(self, draft: Draft) -> NDArray[np.float32]:
        """Feed all tokens that are not cached and then the draft; return logits for what follows each of the last.

        Returns [1 + N, V]: row 0 follows the pending token, row i the i-th drafted one. It is the call's own buffer,
        valid until the next call. Raises: CacheFull before any work when the draft does not fit; ConfigError for a tree
        where `takes_trees` is False; Cancelled, and then the pieces that were read before stay cached.
        """
        if not self.token_ids:
            raise ConfigError("the text is empty; append at least one token")
        self.require_feedable(draft)
        self._leave_pending()
        self._turn()
        watch = current_watch()
        watch.expect(self.num_waiting, piece=self.prefill_chunk)
        self._read()
        is_tree, num_logits = not draft.is_chain, 1 + len(draft)
        waiting = [*self.token_ids[self.num_cached :], *draft.token_ids]
        *pieces, last = self._runner.pieces(waiting, num_logits, is_tree=is_tree)
        for piece in pieces:
            self._feed(piece, num_logits=1)
            watch.read(len(piece))
        logits = self._feed(last, num_logits=num_logits, tree=TreeMask.of(draft) if is_tree else None)
        watch.read(len(last) - len(draft))
        self.ahead.forget()
        self.num_cached -= len(draft)
        self._draft = draft
        return logits

    def extend_by_blends(self, blends: Blends) -> NDArray[np.float32]:
        """Feed blends behind the cached text and the blends before; return logits [T, V] for what follows each.

        Valid until the next call. The text stays as it is. Raises: CacheFull; ConfigError unless the call before was
        `extend` with an empty draft, or this one; for a token outside the vocabulary; where positions change; and in a
        graph of optimum.
        """
        if not self.takes_blends:
            raise ConfigError("graphs of optimum and of fixed shapes take tokens only, no blends")
        self._require_behind(blends.token_ids.ravel().tolist(), num_rows=len(blends))
        if self._num_behind + len(blends) > self.steady_room:
            raise ConfigError(f"positions change after {self.steady_room} more tokens, which blends cannot cross")
        logits = self._runner.run_blends(blends, length=self.num_cached + self._num_behind)
        self._num_behind += len(blends)
        return logits

    def extend_by_branches(self, token_ids: SequenceOf[int], mask: TreeMask) -> NDArray[np.float32]:
        """Feed rows behind the cached text and the rows before, where `mask` lets them see those; return logits [T, V].

        Valid until the next call. The text stays as it is. Raises: CacheFull; ConfigError unless the call before was
        `extend` with an empty draft, or this one; for a token outside the vocabulary, and where `takes_trees` is False.
        """
        if reason := self._why_no_trees():
            raise ConfigError(f"rows cannot branch here, as {reason}; look at takes_trees first")
        self._require_behind(token_ids, num_rows=len(token_ids))
        length = self.num_cached + self._num_behind
        if length + mask.depths.max() >= self.num_cached + self.steady_room:
            raise ConfigError(f"positions change after {self.steady_room} more tokens, which branches cannot cross")
        _, logits = self._runner.run(token_ids, range(len(token_ids)), length=length, tree=mask)
        self._num_behind += len(token_ids)
        return logits

    def _require_behind(self, token_ids: SequenceOf[int], *, num_rows: int) -> None:
        """Raise ConfigError or CacheFull unless rows with these tokens may follow the cached text."""
        if self._draft is None or len(self._draft):
            raise ConfigError("rows follow a text whose last token is cached; extend by an empty draft first")
        self._require_known(token_ids)
        self.require_room(self._num_behind + num_rows)

    def _turn(self) -> None:
        """Take the angles of the text's length; forget rows that have others."""
        if self.is_stale:
            self.num_cached = 0
            self._reader.mark(0)
        if self.will_be_long != self._runner.is_long:
            self._runner.is_long = self.will_be_long
            self.ahead.forget()

    def _read(self) -> None:
        """Read what waits of a prompt by the graphs for that, where there are some."""
        for num_cached in self._reader.read(self.token_ids, self.num_cached):
            num_read, self.num_cached = num_cached - self.num_cached, num_cached
            self.ahead.forget()
            current_watch().read(num_read)

    def mark_cached(self, num_tokens: int, *, is_long: bool) -> None:
        """Note that the cache was given the rows of the first tokens, with the angles of long texts or others.

        Where graphs of their own read prompts, they have read these.
        """
        self._reader.mark(num_tokens)
        self.num_cached, self._runner.is_long = num_tokens, is_long
        self.ahead.forget()
        self._leave_pending()

    def mark_extended(self) -> None:
        """Note that a batched call has fed the pending token, as `extend` with an empty draft would."""
        self.num_cached += 1
        self._draft = Draft.empty()

    def _feed(
        self, token_ids: SequenceOf[int], *, num_logits: int, tree: TreeMask | None = None
    ) -> NDArray[np.float32]:
        """Feed tokens behind the cached ones, those that were peeked at to the later stages only."""
        early = self.ahead.rows
        self.ahead.forget()
        asked = range(len(token_ids) - num_logits, len(token_ids))
        self.num_peeked = early.num_shared(self.num_cached, token_ids) if early and tree is None else 0
        if early and self.num_peeked:
            logits = self.ahead.catch_up(early, self.num_peeked, token_ids, asked)
        else:
            _, logits = self._runner.run(token_ids, asked, length=self.num_cached, tree=tree)
        self.num_cached += len(token_ids)
        return logits

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
        self.cache.move([self.num_cached - 1 + row for row in rows], start=self.num_cached - 1)
        self.token_ids.extend(accepted)
        self.num_cached += len(rows) - 1
        self._leave_pending()
        return rows

    def rollback(self, length: int) -> None:
        """Forget all but the first `length` tokens; copies nothing. Far back, where rows of windows have left, no row
        stays cached."""
        if not 0 <= length <= len(self.token_ids):
            raise ConfigError(f"cannot go back to {length} tokens, the text has {len(self.token_ids)}")
        del self.token_ids[length:]
        self.ahead.forget()
        self._reader.cut(length)
        self._runner.num_given = min(self._runner.num_given, length)
        self._leave_pending()

    def fork(self) -> Sequence:
        """Return an independent copy; the cached rows are copied, those of a draft too, those of blends not."""
        twin = Sequence.open(
            self._spares,
            self.cache.capacity,
            rules=self.rules,
            chains_only=self._chains_only,
            takes_drafts=self._takes_drafts,
            prefill_chunk=self._runner.chunk,
            reads_apart=self.reads_apart,
        )
        twin._reader.copy_from(self._reader)
        twin.cache.copy_from(self.cache, self.num_cached + len(self._draft or ()))
        twin.token_ids, twin.num_cached, twin._draft = list(self.token_ids), self.num_cached, self._draft
        twin._runner.is_long, twin._runner.num_given = self._runner.is_long, self._runner.num_given
        return twin

    def check(self) -> None:
        """Raise AssertionError if the invariant is broken; for tests."""
        pending = 0 if self._draft is not None or not self.token_ids else 1
        assert 0 <= self.num_cached <= len(self.token_ids) - pending, (self.num_cached, len(self.token_ids))
        assert len(self.token_ids) <= self.capacity

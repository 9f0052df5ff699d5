"""What the first stages of a model have seen ahead of the others: tokens behind the text, and their hidden rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.engine.feed import Part
from skipstone.runtime.engine.runner import Runner
from skipstone.runtime.engine.shared_tokens import num_shared

__all__ = ["Ahead", "EarlyRows", "VariantRows"]


@dataclass(slots=True)
class EarlyRows:
    """Tokens from place `start` of the text on that only the first `num_stages` stages have seen.

    Invariant: the caches of these stages hold a row more for each of `token_ids`, and `rows` [E] is what the last of
    the stages gave for each: what the next stage reads. The later stages `then` hold rows for them too, computed with
    stages left out between: a guess, which no later call may take for the text's.
    """

    num_stages: int
    start: int
    then: tuple[int, ...] = ()
    token_ids: list[int] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, token_ids: Sequence[int], hidden: NDArray[np.float32]) -> None:
        """Take over what the stages gave for more tokens, `hidden` [T, E] with T at least their number."""
        self.token_ids.extend(token_ids)
        self.rows.extend(hidden[: len(token_ids)].copy())

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        del self.token_ids[length:], self.rows[length:]

    def serves(self, num_stages: int, start: int, then: tuple[int, ...]) -> bool:
        """Return whether more tokens may follow through `num_stages` first stages and the later ones `then`.

        Rows of fewer stages may go on to `num_stages`, but none of those `then` gave.
        """
        same = self.num_stages == num_stages and {*then} <= {*self.then}
        return self.start == start and (same or (self.num_stages < num_stages and not then))

    def num_shared(self, start: int, token_ids: Sequence[int]) -> int:
        """Return how many of the first tokens from place `start` on were seen: they need the early stages no more."""
        return num_shared(self.token_ids, token_ids) if start == self.start else 0

    def behind(self, num_tokens: int) -> EarlyRows:
        """Return what was seen behind the first `num_tokens`."""
        token_ids, rows = self.token_ids[num_tokens:], self.rows[num_tokens:]
        return EarlyRows(self.num_stages, self.start + num_tokens, self.then, token_ids, rows)


@dataclass(frozen=True, slots=True)
class VariantRows:
    """Tokens from place `start` of the text on that a variant of the whole model has seen. Their rows are guesses."""

    part: Part
    start: int
    token_ids: tuple[int, ...] = ()

    def num_shared(self, part: Part, start: int, token_ids: Sequence[int]) -> int:
        """Return how many of the first tokens from place `start` on this part has seen."""
        return num_shared(self.token_ids, token_ids) if (part, start) == (self.part, self.start) else 0


class Ahead:
    """Lets the first stages run ahead of the others: what they see is not fed to them again.

    Or a variant of the whole model runs in its place, over the same caches, until the next call writes over its rows.

    Invariant: `rows` is None, or the stages' caches hold its tokens from place `rows.start` on, behind the text that
    the whole model has seen; so with `variant_rows`, and one of the two is None. `start` of the methods is the length
    of that text.
    """

    def __init__(self, runner: Runner, manifest: Manifest) -> None:
        self._runner, self._manifest = runner, manifest
        self.rows: EarlyRows | None = None
        self.variant_rows: VariantRows | None = None

    def forget(self) -> None:
        """Let no later call build on what was seen ahead."""
        self.rows = self.variant_rows = None

    def require_stages(self, num_stages: int, then: tuple[int, ...] = ()) -> None:
        """Raise ConfigError for an exit, or later stages behind it, that the model lacks."""
        total = len(self._manifest.stages)
        if not 0 < num_stages < total:
            raise ConfigError(f"the model has no exit after {num_stages} of {total} stages")
        if any(stage >= later for stage, later in itertools.pairwise((num_stages - 1, *then, total))):
            raise ConfigError(f"later stages lie between {num_stages} and {total - 1}, ascending; got {then}")

    def peek(
        self, token_ids: Sequence[int], *, start: int, num_stages: int, then: tuple[int, ...], pruned: bool
    ) -> NDArray[np.float32]:
        """Return the logits [V] of an exit for what follows the last token; see `Sequence.peek`."""
        early, new = self._take(token_ids, start, num_stages, then)
        first, hidden = 0, list[NDArray[np.float32]]()
        if early.num_stages < num_stages:
            first, hidden, new = early.num_stages, self._seen(early, new), [*token_ids]
            early = self.rows = EarlyRows(num_stages, start)
        num_seen = len(early.token_ids)
        length = start + num_seen
        part = Part(range(first, num_stages), head=not then, exit=num_stages, pruned=pruned)
        rows, logits = self._runner.run_in_pieces(new, part, length=length, hidden=hidden)
        early.add(new, rows)
        if then:
            last, part = range(len(new) - 1, len(new)), Part(then, pruned=pruned)
            self.rows = None  # no later stage is believed to have rows that it may not get
            _, logits = self._runner.run(new, last, part, length=length, hidden=early.rows[num_seen:])
            self.rows = early
        row: NDArray[np.float32] = logits[-1]
        return row

    def peek_by(self, token_ids: Sequence[int], *, start: int, part: Part) -> NDArray[np.float32]:
        """Return the logits [V] of a variant of the whole model for what follows the last token.

        Only tokens that it has not seen are fed. They round as they like: nobody takes their rows for the text's.
        """
        known = self.variant_rows
        num_seen = 0 if known is None else min(known.num_shared(part, start, token_ids), len(token_ids) - 1)
        self.forget()
        length, new = start + num_seen, token_ids[num_seen:]
        _, logits = self._runner.run_in_pieces(new, part, length=length)
        self.variant_rows = VariantRows(part, start, tuple(token_ids))
        row: NDArray[np.float32] = logits[-1]
        return row

    def peek_hidden(self, token_ids: Sequence[int], *, start: int, num_stages: int) -> NDArray[np.float32]:
        """Return the hidden states [2, E] of the last token before and after the last stage."""
        if self.rows is not None and self.rows.num_stages < num_stages:
            self.rows = None
        early, new = self._take(token_ids, start, num_stages, ())
        length, nothing = start + len(early.token_ids), range(0)
        states, _ = self._runner.run(new, nothing, Part(range(num_stages - 1), head=False), length=length)
        before = [*states.copy()]
        last_stage = Part(range(num_stages - 1, num_stages), head=False)
        states, _ = self._runner.run(new, nothing, last_stage, length=length, hidden=before)
        early.add(new, states)
        return np.stack([before[-1], early.rows[-1]])

    def peek_logits(self) -> NDArray[np.float32]:
        """Return the exit's logits [V] for what follows the last token that was peeked at."""
        early = self.rows
        if early is None or not early.token_ids:
            raise ConfigError("nothing was peeked at; call peek_hidden first")
        part = Part((), exit=early.num_stages)
        _, logits = self._runner.run(early.token_ids[-1:], range(1), part, length=early.start, hidden=early.rows[-1:])
        row: NDArray[np.float32] = logits[0]
        return row

    def catch_up(self, early: EarlyRows, num_seen: int, token_ids: Sequence[int], asked: range) -> NDArray[np.float32]:
        """Feed the first stages what they have not seen of the tokens, then the others all; return logits of `asked`.

        `early` is what they have seen, of which `num_seen` are the first of the tokens.
        """
        rows = early.rows[:num_seen]
        if rest := token_ids[num_seen:]:
            part = Part(range(early.num_stages), head=False)
            states, _ = self._runner.run(rest, range(0), part, length=early.start + num_seen)
            rows = [*rows, *states]
        else:
            self.rows = early.behind(len(token_ids))
        late = Part(range(early.num_stages, len(self._manifest.stages)))
        return self._runner.run(token_ids, asked, late, length=early.start, hidden=rows)[1]

    def _take(
        self, token_ids: Sequence[int], start: int, num_stages: int, then: tuple[int, ...]
    ) -> tuple[EarlyRows, list[int]]:
        """Return what first stages have seen of these tokens, and the others.

        The last is one of the others, unless more stages are asked for than those that have seen it.
        """
        early, self.variant_rows = self.rows, None
        if early is None or not early.serves(num_stages, start, then):
            early = self.rows = EarlyRows(num_stages, start)
        most = len(token_ids) - (early.num_stages == num_stages)
        early.cut(min(early.num_shared(start, token_ids), most))
        early.then = then
        return early, [*token_ids[len(early.token_ids) :]]

    def _seen(self, early: EarlyRows, new: Sequence[int]) -> list[NDArray[np.float32]]:
        """Show new tokens to the stages that saw the others; return the rows [E] of all."""
        if not new:
            return early.rows
        part = Part(range(early.num_stages), head=False)
        length = early.start + len(early.token_ids)
        return [*early.rows, *self._runner.run_in_pieces(new, part, length=length)[0]]

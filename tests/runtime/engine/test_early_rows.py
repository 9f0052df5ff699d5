"""Stages that run ahead: whatever they saw, logits and the cache of every stage are those of a text never peeked at.

The machine does what it likes to a sequence of a model in stages, beside a list of the tokens it should hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from decoding import cached_rows, path_to, trees
from family_cases import MIXED_LAYERS, heads, longrope
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from model_calls import watching
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.engine import BoundCall, Draft, Model, Sequence
from skipstone.runtime.engine.ahead import EarlyRows

VOCAB_SIZE, CAPACITY = 307, 28
BORDER = 12
LONG_ROPE = {**heads(4, 2, 64), "original_max_position_embeddings": BORDER, **longrope(8)}
KINDS = {
    "llama": ("llama", {}, "auto"),
    "two stages": ("llama", {}, "3"),
    "windows of 5": ("gemma3_text", {**MIXED_LAYERS, "query_pre_attn_scalar": 16}, "auto"),
    "angles change": ("phi3", LONG_ROPE, "auto"),
}
Rows = NDArray[np.float32]
# Few different tokens, so that what is peeked at often comes true.
tokens = st.sampled_from([5, 6, 7, 300])


def chain(token_ids: SequenceOf[int]) -> Draft:
    return Draft.chain(token_ids, source="test")


@pytest.fixture(scope="module")
def make_model(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Callable[[str], Model]:
    """Open one of `KINDS`."""

    def make(kind: str) -> Model:
        model_type, config, exits = KINDS[kind]
        return Model.open(make_bundle(make_checkpoint(model_type, **config), exits=exits))

    return make


@pytest.fixture(scope="module", params=list(KINDS))
def staged(request: pytest.FixtureRequest, make_model: Callable[[str], Model]) -> Model:
    return make_model(request.param)


@pytest.fixture(scope="module")
def llama(make_model: Callable[[str], Model]) -> Model:
    return make_model("llama")


@dataclass
class Fed:
    """How many rows each session has run since it was last asked, padding with them, and the most of a call."""

    rows: dict[int, int] = field(default_factory=dict)
    most: int = 0

    def add(self, call: BoundCall, num_rows: int) -> None:
        self.most = max(self.most, num_rows)
        for session in call.sessions:
            self.rows[id(session)] = self.rows.get(id(session), 0) + num_rows

    def of_stages(self, model: Model) -> list[int]:
        """Return the rows of each stage, and forget them."""
        counts = [self.rows.get(id(session), 0) for session in model.sessions.graphs[: len(model.manifest.stages)]]
        self.rows.clear()
        return counts


@pytest.fixture(scope="module")
def fed() -> Iterator[Fed]:
    found = Fed()
    with watching(lambda call, token_ids, lengths, logits: found.add(call, token_ids.shape[1])):
        yield found


class Plain:
    """The slow obvious way: every text from its first token on, in a sequence that never peeks."""

    def __init__(self, model: Model, *, exact: bool) -> None:
        self._sequence = model.new_sequence(exact=exact)

    def logits(self, text: SequenceOf[int], draft: Draft) -> Rows:
        """Return logits [1 + N, V] that follow the text and each guess of a draft."""
        if draft.is_chain:
            self._fill(text)
            return self._sequence.extend(draft).copy()
        found = []
        for row in range(1 + len(draft)):
            self._fill([*text, *path_to(draft, row)])
            found.append(self._sequence.extend(Draft.empty())[0].copy())
        return np.stack(found)

    def rows(self, text: SequenceOf[int]) -> list[Rows]:
        """Return keys and values of all tokens of a text."""
        self._fill(text)
        self._sequence.extend(Draft.empty())
        return cached_rows(self._sequence)

    def exit_logits(self, text: SequenceOf[int], num_stages: int) -> Rows:
        self._fill(text)
        return self._sequence.peek(text, num_stages=num_stages).copy()

    def _fill(self, text: SequenceOf[int]) -> None:
        self._sequence.rollback(0)
        self._sequence.append(text)


class Machine(RuleBasedStateMachine):
    """Keeps what should be: the text, the draft, and which tokens which stages have seen behind the cached ones."""

    def __init__(self, model: Model, fed: Fed, *, exact: bool) -> None:
        super().__init__()
        self.model, self.fed, self.exact = model, fed, exact
        self.num_stages = len(model.manifest.stages)
        self.sequence = model.new_sequence(context_length=CAPACITY, exact=exact)
        self.plain = Plain(model, exact=exact)
        self.text: list[int] = []
        self.draft: Draft | None = None
        self.peeked: list[int] = []
        self.peeked_stages = self.peeked_from = 0
        self.peeked_then: tuple[int, ...] = ()

    @property
    def border(self) -> int:
        return self.model.manifest.long_rope_from or 10**9

    def compare(self, found: Rows, wanted: Rows) -> None:
        if self.exact:
            assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32))
        else:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)

    def padded(self, num_rows: int) -> int:
        return self.sequence.rules.layers.fed(num_rows) if self.sequence.rules else num_rows

    @rule(token_ids=st.lists(tokens, max_size=5))
    def append(self, token_ids: list[int]) -> None:
        if len(self.text) + len(token_ids) > CAPACITY:
            return
        was_long = self.is_long
        self.sequence.append(token_ids)
        self.text += token_ids
        self.draft = None
        self.forget_if(was_long)

    @property
    def is_long(self) -> bool:
        return len(self.text) > self.border

    def forget_if(self, was_long: bool) -> None:
        if was_long != self.is_long:
            self.peeked = []

    @rule(
        stages=st.tuples(st.integers(1, 3), st.sets(st.integers(2, 3))),
        kept=st.integers(0, 9),
        guesses=st.lists(tokens, max_size=4),
        pieces=st.integers(1, 3),
    )
    def peek(self, stages: tuple[int, set[int]], kept: int, guesses: list[int], pieces: int) -> None:
        """Peek as a drafter does: first at what waits, then at guesses, in one piece or token by token.

        Some of what was peeked at before may be kept, and some later stages may follow the first ones.
        """
        num_stages, then = min(stages[0], self.num_stages - 1), stages[1]
        then = tuple(sorted(stage for stage in then if num_stages <= stage < self.num_stages))
        if not self.text:
            return
        if self.draft is not None or self.sequence.is_stale:
            self.peeked = []
        start = 0 if self.sequence.is_stale else min(self.sequence.num_cached, len(self.text) - 1)
        waiting = self.text[start:]
        is_known = self.peeked[: len(waiting)] == waiting and kept >= len(waiting)
        known = self.peeked[:kept] if is_known else waiting
        token_ids = [*known, *guesses]
        size, self.draft = -(-len(token_ids) // pieces) or 1, None
        for end in (*range(size, len(token_ids), size), len(token_ids)):
            piece = token_ids[:end]
            if end < len(waiting):
                continue
            if start + len(piece) > CAPACITY:
                with pytest.raises(CacheFull):
                    self.sequence.peek(piece, num_stages=num_stages, then=then)
                return
            goes_on = bool(self.peeked) and self.peeked_stages < num_stages and not then
            same = self.peeked_stages == num_stages and {*then} <= {*self.peeked_then}
            if self.peeked_from != start or not (goes_on or same):
                self.peeked, goes_on = [], False
            num_seen, first = self.num_shared(start, piece), self.peeked_stages if goes_on else 0
            self.fed.rows.clear()
            found = self.sequence.peek(piece, num_stages=num_stages, then=then)
            new, rows = len(piece) - num_seen, self.padded(len(piece) - min(num_seen, len(piece) - 1))
            if goes_on:  # the stages that are added see all tokens, the others those they have not seen
                new, rows = self.padded(new), self.padded(len(piece))
            ran = [*range(num_stages), *then]
            wanted = [new if stage < first else rows * (stage in ran) for stage in range(self.num_stages)]
            assert self.fed.of_stages(self.model) == wanted
            self.peeked, self.peeked_then, self.peeked_stages, self.peeked_from = piece, then, num_stages, start
            seen = [*self.text[:start], *self.peeked]
            if not then and (len(seen) > self.border) == self.is_long:  # else they have the text's angles, not theirs
                self.compare(found, self.plain.exit_logits(seen, num_stages))

    @rule(draft=trees(max_size=5) | st.lists(tokens, max_size=5).map(chain), shared=st.integers(0, 5))
    def extend(self, draft: Draft, shared: int) -> None:
        """Verify a draft; a chain may begin with some of the guesses that were peeked at."""
        if not self.text:
            return
        start = 0 if self.sequence.is_stale else min(self.sequence.num_cached, len(self.text) - 1)
        waiting = self.text[start:]
        if draft.is_chain:
            draft = chain([*self.peeked[len(waiting) :][:shared], *draft.token_ids])
        try:
            self.sequence.require_feedable(draft)
        except (CacheFull, ConfigError):
            return
        self.fed.rows.clear()
        found = self.sequence.extend(draft).copy()
        self.draft = draft
        # What waits before the pending token of a tree is fed in a call of its own.
        seen = self.num_shared(start, [*waiting, *draft.token_ids] if draft.is_chain else waiting[:-1])
        all_rows = len(waiting) + len(draft)
        early, late = self.padded(all_rows - seen), self.padded(all_rows)
        assert self.sequence.num_peeked == (seen if draft.is_chain else 0)
        counts = self.fed.of_stages(self.model)
        ahead = self.peeked_stages if seen else 0
        assert counts == [early] * ahead + [late] * (self.num_stages - ahead), (counts, seen, all_rows)
        self.compare(found, self.plain.logits(self.text, draft))
        self.peeked = []

    def num_shared(self, start: int, token_ids: list[int]) -> int:
        if start != self.peeked_from:
            return 0
        same = [one == other for one, other in zip(self.peeked, token_ids, strict=False)]
        return same.index(False) if False in same else len(same)

    @precondition(lambda self: self.draft is not None)
    @rule(row=st.integers(0, 9), other=tokens)
    def commit(self, row: int, other: int) -> None:
        assert self.draft is not None
        accepted = [*path_to(self.draft, row % (1 + len(self.draft))), other]
        if len(self.text) + len(accepted) > CAPACITY:
            return
        self.sequence.commit(accepted)
        self.text += accepted
        self.draft = None

    @rule(back=st.integers(0, CAPACITY))
    def rollback(self, back: int) -> None:
        length = max(0, len(self.text) - back)
        self.sequence.rollback(length)
        del self.text[length:]
        self.draft, self.peeked = None, []

    @rule(goes_on=st.booleans())
    def fork(self, goes_on: bool) -> None:
        """The twin has peeked at nothing; the first goes on as if nothing had happened."""
        twin = self.sequence.fork()
        if goes_on:
            self.sequence, self.peeked = twin, []

    @invariant()
    def it_holds_its_text(self) -> None:
        self.sequence.check()
        assert self.sequence.token_ids == self.text

    @invariant()
    def every_stage_has_cached_what_a_fresh_prefill_caches(self) -> None:
        num_cached = self.sequence.num_cached
        if num_cached and not self.sequence.is_stale:
            for found, wanted in zip(cached_rows(self.sequence), self.plain.rows(self.text), strict=True):
                self.compare(found, wanted[:, :, :num_cached])


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_sequence_that_peeks_is_one_that_never_did(staged: Model, fed: Fed, exact: bool) -> None:
    run_state_machine_as_test(
        lambda: Machine(staged, fed, exact=exact),
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_long_text_is_fed_in_pieces_without_what_was_peeked_at(llama: Model, fed: Fed) -> None:
    text = [5, 6, 7, 300, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    sequence = Sequence.open(llama.spares, None, prefill_chunk=4)
    sequence.append(text)
    sequence.peek(text[:6], num_stages=2)
    fed.rows.clear()
    fed.most = 0
    found = sequence.extend(chain([20])).copy()
    assert (fed.of_stages(llama), fed.most) == ([9, 9, 15, 15], 4)
    np.testing.assert_allclose(found, Plain(llama, exact=False).logits(text, chain([20])), rtol=0, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_peek_at_more_stages_goes_on_from_what_fewer_have_seen(llama: Model, fed: Fed, exact: bool) -> None:
    sequence, plain, text = llama.new_sequence(exact=exact), Plain(llama, exact=exact), [5, 6, 7, 300]
    sequence.append(text)
    fed.rows.clear()
    shown = [(text[:2], 1, [2, 0, 0, 0]), (text[:2], 2, [0, 2, 0, 0]), (text, 3, [2, 2, 4, 0])]
    for token_ids, num_stages, wanted in shown:
        found = sequence.peek(token_ids, num_stages=num_stages).copy()
        assert fed.of_stages(llama) == wanted
        np.testing.assert_allclose(found, plain.exit_logits(token_ids, num_stages), rtol=0, atol=1e-5)
        fed.rows.clear()
    found = sequence.extend(Draft.empty()).copy()
    assert fed.of_stages(llama) == [0, 0, 0, 4]
    np.testing.assert_allclose(found, plain.logits(text, Draft.empty()), rtol=0, atol=1e-5)


def test_a_long_text_is_peeked_at_in_pieces(llama: Model, fed: Fed) -> None:
    text, plain = [*range(5, 16)], Plain(llama, exact=False)
    wanted = [plain.exit_logits(text, 1), plain.exit_logits(text, 3), plain.logits(text, Draft.empty())[0]]
    sequence = Sequence.open(llama.spares, None, prefill_chunk=4)
    sequence.append(text)
    fed.rows.clear()
    fed.most = 0
    found = [sequence.peek(text, num_stages=1).copy(), sequence.peek(text, num_stages=3).copy()]
    found.append(sequence.extend(Draft.empty())[0].copy())
    assert (fed.of_stages(llama), fed.most) == ([11, 11, 11, 11], 4)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_a_text_that_has_outgrown_its_angles_forgets_what_was_peeked_at(make_model: Callable[[str], Model]) -> None:
    model = make_model("angles change")
    sequence, text = model.new_sequence(), [5, 6, 7]
    sequence.append(text)
    sequence.peek(text, num_stages=1)
    more = list(range(20, 20 + BORDER))
    sequence.append(more)
    found = sequence.extend(Draft.empty()).copy()
    assert sequence.num_peeked == 0
    wanted = Plain(model, exact=False).logits([*text, *more], Draft.empty())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_row_that_pads_a_call_never_holds_what_is_no_number(llama: Model) -> None:
    sequence = llama.new_sequence(exact=True)
    sequence.append([5, 6, 7])
    sequence.peek([5, 6, 7], num_stages=1)
    found = sequence.extend(Draft.empty()).copy()
    assert np.isfinite(found).all()
    assert np.array_equal(found, Plain(llama, exact=True).logits([5, 6, 7], Draft.empty()))
    assert all(np.isfinite(buffer.read()[:, :, :4]).all() for buffer in sequence.cache)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_stages_that_are_left_out_pass_the_hidden_states_on(llama: Model, exact: bool) -> None:
    """All later stages give the full model's logits; some give what a text gives that only ever saw those."""
    sequence, text = llama.new_sequence(exact=exact), [5, 6, 7, 300]
    sequence.append(text)
    whole = sequence.peek(text, num_stages=1, then=(1, 2, 3)).copy()
    np.testing.assert_allclose(whole, Plain(llama, exact=exact).logits(text, Draft.empty())[0], rtol=0, atol=1e-5)
    parted = [sequence.peek(text[:end], num_stages=2, then=(3,)).copy() for end in (2, 3, 4)]
    again = llama.new_sequence(exact=exact)
    again.append(text)
    np.testing.assert_allclose(parted[-1], again.peek(text, num_stages=2, then=(3,)), rtol=0, atol=1e-5)
    found = sequence.extend(chain([8])).copy()
    np.testing.assert_allclose(found, Plain(llama, exact=exact).logits(text, chain([8])), rtol=0, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_peek_in_two_steps_is_one_with_the_hidden_states_between(llama: Model, exact: bool) -> None:
    sequence, other, text = llama.new_sequence(exact=exact), llama.new_sequence(exact=exact), [5, 6, 7, 300]
    for one in (sequence, other):
        one.append(text)
    hidden = sequence.peek_hidden(text, num_stages=2)
    assert sequence.ahead.rows is not None and np.array_equal(hidden[1], sequence.ahead.rows.rows[-1])
    logits = sequence.peek_logits().copy()
    assert np.array_equal(logits, other.peek(text, num_stages=2))
    before = other.peek_hidden(text, num_stages=3)[0]
    np.testing.assert_allclose(before, hidden[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        sequence.extend(Draft.empty()), Plain(llama, exact=exact).logits(text, Draft.empty()), rtol=0, atol=1e-4
    )
    assert sequence.num_peeked == len(text)


def test_what_cannot_be_peeked_at_is_refused_before_any_work(llama: Model, tiny: Model, fed: Fed) -> None:
    sequence = llama.new_sequence(context_length=6)
    sequence.append([5, 6, 7])
    fed.rows.clear()
    for num_stages in (-1, 0, 4, 5):
        with pytest.raises(ConfigError, match=f"no exit after {num_stages} of 4 stages"):
            sequence.peek([5, 6, 7], num_stages=num_stages)
    for then in ((0,), (2, 2), (3, 2), (4,)):
        with pytest.raises(ConfigError, match="later stages lie between 1 and 3"):
            sequence.peek([5, 6, 7], num_stages=1, then=then)
    with pytest.raises(ConfigError, match="peek at two stages or more"):
        sequence.peek_hidden([5, 6, 7], num_stages=1)
    with pytest.raises(ConfigError, match="nothing was peeked at"):
        sequence.peek_logits()
    with pytest.raises(ConfigError, match="no token to peek at"):
        sequence.peek([], num_stages=1)
    with pytest.raises(ConfigError, match="307 is outside the vocabulary"):
        sequence.peek([5, 6, VOCAB_SIZE], num_stages=1)
    with pytest.raises(CacheFull, match="holds 6 tokens, 7 needed"):
        sequence.peek([5, 6, 7, 8, 9, 10, 11], num_stages=1)
    whole = tiny.new_sequence()
    whole.append([5])
    with pytest.raises(ConfigError, match="no exit after 1 of 1 stages"):
        whole.peek([5], num_stages=1)
    assert not fed.rows
    sequence.peek([5, 6, 7, 8, 9, 10], num_stages=1)
    with pytest.raises(CacheFull):
        sequence.peek([5, 6, 7, 8, 9, 10, 11], num_stages=1)
    sequence.extend(chain([8, 9, 10]))
    assert sequence.num_peeked == 6


def test_rows_are_shared_as_far_as_the_tokens_are_those_that_were_peeked_at() -> None:
    early = EarlyRows(2, start=3)
    early.add([5, 6], np.arange(8, dtype=np.float32).reshape(2, 4))
    early.add([7], np.full((2, 4), 9, np.float32))
    assert [row[0] for row in early.rows] == [0, 4, 9]
    for start, token_ids, wanted in ((3, [5, 6, 7, 8], 3), (3, [5, 8, 7], 1), (3, [8], 0), (3, [], 0), (4, [5], 0)):
        assert early.num_shared(start, token_ids) == wanted
    rest = early.behind(2)
    assert (rest.start, rest.num_stages, rest.token_ids, rest.rows[0][0]) == (5, 2, [7], 9)


def test_rows_are_kept_when_the_call_that_gave_them_runs_again() -> None:
    hidden, early = np.ones((1, 4), np.float32), EarlyRows(1, start=0)
    early.add([5], hidden)
    hidden[:] = 2
    assert (early.rows[0] == 1).all()

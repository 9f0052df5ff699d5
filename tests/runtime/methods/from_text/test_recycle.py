"""Token recycling: a table of what the model thought of last, and the best small tree through it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import PlainDrafter, Round, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, SharedStores
from skipstone.runtime.methods import DrafterContext, open_drafter
from skipstone.runtime.methods.from_text import Node, RecycleDrafter, RecyclingTable, top_ids, tree_template
from skipstone.runtime.sampling import Sampler, SamplingOptions

PROMPT = [1, 50, 60, 70]
OPTIONS = [
    SamplingOptions(),
    SamplingOptions(temperature=0.8, seed=3),
    SamplingOptions(temperature=1.0, repetition_penalty=1.5, presence_penalty=0.5, no_repeat_ngram=2, seed=5),
]
NUM_TOKENS = 24
VOCAB_SIZE = 8

falling_chances = st.lists(st.floats(0.01, 0.9), min_size=1, max_size=3).map(lambda found: sorted(found, reverse=True))


def run(
    model: Model,
    options: SamplingOptions,
    *,
    shared: SharedStores | None = None,
    trees: bool = True,
    plain: bool = False,
) -> tuple[list[int], list[Step]]:
    """Return the text and the steps of decoding it."""
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=len(PROMPT))
    context = DrafterContext(
        model=model, sampler=sampler, sequence=sequence, shared=shared or SharedStores(), trees=trees
    )
    drafter = PlainDrafter() if plain else open_drafter("recycle", context)
    accept = match(sampler, sequence.token_ids)
    steps = list(decode(sequence, drafter=drafter, accept=accept, max_new_tokens=NUM_TOKENS, stop_ids=()))
    return sequence.token_ids, steps


def seen_round(draft: Draft, pending_id: int, token_ids: list[int], logits: NDArray[np.float32]) -> Round:
    return Round(draft, pending_id, token_ids, draft.path(token_ids), logits)


def table_of(successors: dict[int, list[int]], *, vocab_size: int = 100) -> RecyclingTable:
    table = RecyclingTable(vocab_size, width=2)
    for token_id, row in successors.items():
        table.update([token_id], np.array([row], np.int32))
    return table


# The text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding(tiny: Model, options: SamplingOptions, trees: bool) -> None:
    plain, _ = run(tiny, options, plain=True)
    shared = SharedStores()
    for _ in range(3):
        text, steps = run(tiny, options, shared=shared, trees=trees)
        assert text == plain
    assert len(steps) < NUM_TOKENS, "the third time some guesses are right"
    assert {step.drafter for step in steps[1:-1]} == {"recycle"}


@pytest.mark.filterwarnings("error")
def test_texts_made_at_once_share_a_table_and_stay_the_same(tiny: Model) -> None:
    shared, texts = SharedStores(), {}
    plain = {index: run(tiny, options, plain=True)[0] for index, options in enumerate(OPTIONS)}

    def make(index: int) -> None:
        texts[index] = run(tiny, OPTIONS[index], shared=shared)[0]

    threads = [Thread(target=make, args=(index,)) for index in plain]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == plain


# The table


@given(
    rows=st.lists(
        st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=7, max_size=7), min_size=1, max_size=5
    ),
    width=st.integers(1, 2),
)
def test_the_largest_logits_come_first_and_of_equal_ones_the_lower_id(rows: list[list[float]], width: int) -> None:
    rows = [[3.0, *row, 2.5] for row in rows]
    logits = np.array(rows, np.float32)
    kept = logits.copy()
    slow = [[token_id for _, token_id in sorted((-value, index) for index, value in enumerate(row))] for row in rows]
    assert top_ids(logits, width).tolist() == [order[:width] for order in slow]
    assert np.array_equal(logits, kept)


def slow_update(table: dict[int, list[int]], seen: Round, width: int) -> None:
    """Write row by row: first those that were rejected, then the accepted ones from the root down."""
    fed = [seen.pending_id, *seen.draft.token_ids]
    depths = seen.draft.depths()
    order = sorted(range(len(fed)), key=lambda row: (row in seen.rows, depths[row] if row in seen.rows else row))
    for row in order:
        table[fed[row]] = np.argsort(-seen.logits[row], kind="stable")[:width].tolist()


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """A random tree over few tokens, so that many stand in it twice, and a random path through it."""
    draft = Draft.empty()
    for _ in range(draw(st.integers(0, 8))):
        parent, token_id = draw(st.integers(0, len(draft))), draw(st.integers(0, VOCAB_SIZE - 1))
        if draft.child(parent, token_id) is None:
            draft = Draft((*draft.token_ids, token_id), "random", (*draft.parents, parent))
    row = draw(st.integers(0, len(draft)))
    path: list[int] = []
    while row:
        path.insert(0, draft.token_ids[row - 1])
        row = draft.parents[row - 1]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.permuted(np.tile(np.arange(VOCAB_SIZE, dtype=np.float32), (1 + len(draft), 1)), axis=1)
    return seen_round(draft, draw(st.integers(0, VOCAB_SIZE - 1)), path, logits)


@given(st.lists(rounds(), max_size=6))
def test_the_table_is_that_of_writing_row_by_row(seen_rounds: list[Round]) -> None:
    table = RecyclingTable(VOCAB_SIZE, width=3)
    drafter, slow = RecycleDrafter(table, tree_template(3, [0.5, 0.2, 0.1])), dict[int, list[int]]()
    for seen in seen_rounds:
        drafter.observe(seen)
        slow_update(slow, seen, 3)
    assert [table.successors(token_id) for token_id in range(VOCAB_SIZE)] == [
        slow.get(token_id, []) for token_id in range(VOCAB_SIZE)
    ]


def test_of_a_token_that_stands_twice_the_deepest_accepted_row_counts() -> None:
    table = RecyclingTable(VOCAB_SIZE, width=1)
    drafter = RecycleDrafter(table, tree_template(3, [0.5]))
    # 5 follows the pending token and itself; both are accepted, a third 5 on a wrong branch is not.
    draft = Draft((5, 6, 5, 5), "recycle", (0, 0, 1, 2))
    drafter.observe(seen_round(draft, 1, [5, 5, 7], np.eye(VOCAB_SIZE, dtype=np.float32)[[0, 1, 2, 3, 4]]))
    assert table.successors(5) == [3]
    # Nothing accepted: the last row counts.
    drafter.observe(seen_round(draft, 1, [7], np.eye(VOCAB_SIZE, dtype=np.float32)[[0, 1, 2, 3, 4]]))
    assert table.successors(5) == [4]


@pytest.mark.parametrize("width", [0, 9])
def test_a_table_of_an_impossible_width_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=f"between 1 and all {VOCAB_SIZE} successors of a token, got {width}"):
        RecyclingTable(VOCAB_SIZE, width=width)


# The tree


def all_trees(num_nodes: int, num_ranks: int) -> set[frozenset[tuple[int, ...]]]:
    """Return every tree of so many nodes, each node as the ranks on its path."""
    trees = {frozenset[tuple[int, ...]]()}
    for _ in range(num_nodes):
        trees = {
            tree | {(*parent, rank)}
            for tree in trees
            for parent in (*tree, ())
            for rank in range(num_ranks)
            if (*parent, rank) not in tree
        }
    return trees


def paths_of(template: Sequence[Node]) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = [()]
    for node in template:
        paths.append((*paths[node.parent], node.rank))
        assert len(paths[-1]) == node.depth
    return paths[1:]


@given(chances=falling_chances, num_nodes=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_the_template_is_the_best_of_all_trees(chances: list[float], num_nodes: int) -> None:
    def worth(paths: frozenset[tuple[int, ...]]) -> float:
        return sum(prod(chances[rank] for rank in path) for path in paths)

    paths = frozenset(paths_of(tree_template(num_nodes, chances)))
    assert len(paths) == num_nodes
    assert worth(paths) == pytest.approx(max(map(worth, all_trees(num_nodes, len(chances)))))


@given(chances=falling_chances, num_nodes=st.integers(1, 10))
def test_the_first_nodes_of_a_template_are_the_smaller_template(chances: list[float], num_nodes: int) -> None:
    assert tree_template(10, chances)[:num_nodes] == tree_template(num_nodes, chances)


@pytest.mark.parametrize(
    ("num_nodes", "chances", "message"),
    [
        (0, [0.5], "at least 1 node, got 0"),
        (3, [], "must be there"),
        (3, [0.2, 0.5], "fall from rank to rank"),
        (3, [1.0, 0.5], "between 0 and 1"),
        (3, [0.5, 0.0], "between 0 and 1"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(num_nodes: int, chances: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tree_template(num_nodes, chances)


# Drafts


def test_a_draft_walks_the_table_and_its_levels_tell_depth_and_rank() -> None:
    table = table_of({1: [2, 3], 2: [4, 5], 4: [6, 7], 3: [8, 9]})
    # Worth 0.6, 0.36, 0.3, 0.216 and then twice 0.18: the earlier of equal ones comes first.
    drafter = RecycleDrafter(table, tree_template(5, [0.6, 0.3]))
    draft = drafter.propose([9, 1], limit=10)
    assert draft.token_ids == (2, 4, 3, 6, 5)
    assert draft.parents == (0, 1, 0, 2, 1)
    assert draft.levels == (0, 2, 1, 4, 3)
    assert [drafter.prior(level) for level in draft.levels] == [0.5, 0.5, 0.12, 0.5, 0.12]


@pytest.mark.parametrize("limit", range(1, 7))
def test_a_limit_keeps_the_likeliest_guesses(limit: int) -> None:
    table = table_of({1: [2, 3], 2: [4, 5], 4: [6, 7], 3: [8, 9]})
    drafter = RecycleDrafter(table, tree_template(5, [0.6, 0.3]))
    draft = drafter.propose([1], limit=limit)
    assert draft == drafter.propose([1], limit=10).keep(range(1, min(limit, 5) + 1))


def test_what_the_model_has_not_seen_gets_no_guess_and_takes_no_row() -> None:
    drafter = RecycleDrafter(table_of({1: [2, 3], 3: [8, 0]}), tree_template(6, [0.6, 0.5]))
    assert len(drafter.propose([7], limit=10)) == 0
    draft = drafter.propose([1], limit=3)
    assert (draft.token_ids, draft.parents) == ((2, 3, 8), (0, 0, 2))


def test_a_new_text_finds_what_the_model_wrote_before(tiny: Model) -> None:
    def new_drafter(shared: SharedStores) -> RecycleDrafter:
        drafter = open_drafter(
            "recycle", DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), shared=shared)
        )
        assert isinstance(drafter, RecycleDrafter)
        return drafter

    shared = SharedStores()
    logits = np.zeros((1, tiny.manifest.dimensions.vocab_size), np.float32)
    logits[0, [40, 30, 20, 10]] = 4, 3, 2, 1
    new_drafter(shared).observe(seen_round(Draft.empty(), 5, [40], logits))
    assert new_drafter(shared).propose([5], limit=8).token_ids == (40, 30, 20)
    assert len(new_drafter(SharedStores()).propose([5], limit=8)) == 0


def test_where_drafts_may_not_branch_the_first_rank_alone_is_a_chain(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), trees=False)
    drafter = open_drafter("recycle", context)
    logits = np.eye(tiny.manifest.dimensions.vocab_size, dtype=np.float32)
    drafter.observe(seen_round(Draft.chain([11, 12, 13, 14], source="x"), 10, [9], logits[[11, 12, 13, 14, 15]]))
    draft = drafter.propose([10], limit=8)
    assert draft.is_chain and draft.token_ids == (11, 12, 13, 14)
    assert len(set(draft.levels)) == 4


def test_rules_that_need_laws_are_refused(tiny: Model) -> None:
    context = DrafterContext(model=tiny, sampler=Sampler(), sequence=tiny.new_sequence(), rule="rejection")
    with pytest.raises(ConfigError, match="the rule rejection needs; use match"):
        open_drafter("recycle", context)

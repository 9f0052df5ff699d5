"""A tree of guesses by a small model: where it wavers, several ways are tried; one call of it for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import ConfidenceScale, Drafter, Round, level_of, middle_of
from skipstone.runtime.engine import Draft, why_chains
from skipstone.runtime.methods.method import DRAFT_MODEL, DrafterContext, Method
from skipstone.runtime.methods.small_model.follower import Follower, drafter_of, follower_of
from skipstone.runtime.sampling import Picker, picker_for

__all__ = ["METHOD", "ChainsDrafter", "Node", "TreeDrafter", "as_draft", "open_tree"]


def open_tree(context: DrafterContext) -> Drafter:
    """Return a drafter of trees for one text: under the rule k-seq of several chains drawn independently.

    Raises: ConfigError where drafts may not branch, or the bundle has no small model with the target's tokenizer.
    """
    model = drafter_of(context, "tree", own_tokenizer=False)
    text = follower_of(context, model)
    if not context.trees:
        raise ConfigError("this text takes chains only, which tree does not draft; use model")
    if not text.sequence.takes_trees:
        why = why_chains(model.manifest, model.device) or "rows are added to its calls"
        raise ConfigError(f"the small model of the bundle cannot run trees, because {why}; use model")
    picker = picker_for(context.sampler, context.rule)
    if context.rule == "k-seq" and not context.sampler.greedy:
        return ChainsDrafter(text, picker)
    return TreeDrafter(text, picker)


BRANCHING = 3
NUM_CHAINS = 2
# Without a planner, which knows prices, no more guesses and none less likely than this.
MOST_GUESSES = 8
LEAST_CHANCE = 1 / MOST_GUESSES


class TreeDrafter(Drafter):
    """Drafts the guesses with the largest chance that their whole path is accepted, as far as a small model knows.

    It grows layer by layer, and looks behind those only that are among the best so far. A guess is worth its row from
    `min_chance` on, without that from one in eight on. For rules that reject by chance the guesses are drawn; then the
    first place with a choice gets two, as whether a draft branches must not depend on the draws.

    Sources: SpecExec (Svirschevski et al., 2024) for the best; DySpec (Xiong et al., 2024) for the threshold; recursive
    speculative decoding (Jeon et al., 2024) for the draws. Cost: a call of the small model a layer.
    """

    name = "tree"

    def __init__(self, text: Follower, picker: Picker, *, branching: int = BRANCHING) -> None:
        """`branching` is the most guesses for one place."""
        if branching < 2:
            raise ConfigError(f"branching must be at least 2, got {branching}; for 1 there is the drafter model")
        self._text, self._picker, self._branching = text, picker, branching
        self._scale, self._last = ConfidenceScale(), Draft.empty()

    def propose(self, history: Sequence[int], *, limit: int, min_chance: float = 0.0) -> Draft:
        most = min(limit, self._text.follow(history), limit if min_chance else MOST_GUESSES)
        self._picker.start(len(history))
        root = Node()
        if most > 0:
            self._grow(root, history, most, min_chance or LEAST_CHANCE)
        self._last = as_draft(root, source=self.name)
        return self._last

    def prior(self, level: int) -> float:
        return middle_of(level)

    def observe(self, seen: Round) -> None:
        self._scale.learn(self._last, seen.token_ids)
        self._last = Draft.empty()

    def _grow(self, root: Node, history: Sequence[int], most: int, least: float) -> None:
        """Add at most `most` guesses of a rank of at least `least`."""
        best: list[Node] = []  # highest rank first; a child has its parent's at most, and stands behind it
        leaves = [root]
        while leaves:
            draft = as_draft(root, source=self.name)
            logits = self._text.logits(draft)
            for row, node in enumerate([*root.walk()]):
                if node in leaves:
                    self._open(node, logits[row], history, least, is_first_choice=draft.is_chain)
            new = [child for leaf in leaves for child in leaf.children]
            best = sorted([*best, *new], key=lambda node: -node.rank)[:most]
            for node in [*root.walk()]:
                node.children = [child for child in node.children if child in best]
            # Behind a node stands nothing that is worth more.
            to_beat = best[-1].rank if len(best) == most else 0.0
            leaves = [node for node in new if node in best and node.value >= least and node.value > to_beat]

    def _open(
        self, node: Node, logits: NDArray[np.float32], history: Sequence[int], least: float, *, is_first_choice: bool
    ) -> None:
        """Give a leaf its children, whose ranks do not rise from one to the next."""
        picks = self._picker.pick(logits, [*history, *node.path], self._branching)
        node.law = picks.law
        chance = rank = 1.0
        for index, (token_id, confidence) in enumerate(zip(picks.token_ids, picks.confidences, strict=True)):
            chance = min(chance, self._scale.chance(confidence))
            if not (is_first_choice and index == 1 and picks.law is not None):
                rank = chance
            if node.value * rank < least:
                return
            node.add(token_id, chance=chance, rank=rank, level=level_of(confidence))


class ChainsDrafter(TreeDrafter):
    """Drafts a few chains, each drawn as if it were alone, merged into a tree where they agree: for the rule k-seq.

    How far a chain goes depends on what it has drawn so far, not on the next guess. Source: SpecTr (Sun et al., 2023).
    """

    def __init__(self, text: Follower, picker: Picker, *, num_chains: int = NUM_CHAINS) -> None:
        if num_chains < 1:
            raise ConfigError(f"num_chains must be at least 1, got {num_chains}")
        super().__init__(text, picker)
        self._num_chains = num_chains

    def _grow(self, root: Node, history: Sequence[int], most: int, least: float) -> None:
        num_chains = min(self._num_chains, most)
        leaves = {root: num_chains}  # how many chains end there
        for _ in range(most // num_chains):
            logits = self._text.logits(as_draft(root, source=self.name))
            rows = {node: logits[row] for row, node in enumerate(root.walk())}
            for leaf, num_draws in leaves.items():
                self._extend(leaf, num_draws, rows[leaf], history, least)
            leaves = {child: leaf.draws.count(child) for leaf in leaves for child in leaf.children}
            if not leaves:
                return

    def _extend(
        self, node: Node, num_draws: int, logits: NDArray[np.float32], history: Sequence[int], least: float
    ) -> None:
        """Draw the next guess of the chains that end at a node, of all or of none."""
        text = [*history, *node.path]
        picked = [self._picker.pick(logits, text, 1) for _ in range(num_draws)]
        confidence = picked[0].confidences[0]  # before the draw, so equal for all
        chance = self._scale.chance(confidence)
        if node.value * chance < least:
            return
        node.law = picked[0].law
        for picks in picked:
            (token_id,) = picks.token_ids
            drawn = [child for child in node.children if child.path[-1] == token_id]
            node.draws += drawn or [node.add(token_id, chance=chance, rank=chance, level=level_of(confidence))]


@dataclass(slots=True, eq=False)
class Node:
    """A guess, or the pending token when `path`, the guesses that lead to it, is empty.

    `value` is the chance that the whole path is accepted; `rank` orders nodes, and is at least the value. `children`
    are different tokens in the order picked. `law` [V] and `draws`, the children as often as they were drawn, are for
    children drawn by chance.
    """

    path: tuple[int, ...] = ()
    value: float = 1.0
    rank: float = 1.0
    level: int = 0
    law: NDArray[np.float64] | None = None
    children: list[Node] = field(default_factory=list)
    draws: list[Node] = field(default_factory=list)

    def add(self, token_id: int, *, chance: float, rank: float, level: int) -> Node:
        """Return a new last child; `chance` and `rank` are relative to this node's value."""
        child = Node((*self.path, token_id), self.value * chance, self.value * rank, level)
        self.children.append(child)
        return child

    def walk(self) -> Iterator[Node]:
        """Yield the node, then each child with all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def as_draft(root: Node, *, source: str) -> Draft:
    """Return the tree as a draft, its rows as `walk` goes: so the path of first children comes first, unbroken."""
    nodes = [*root.walk()]
    row_of = {node: row for row, node in enumerate(nodes)}
    parents = {child: row_of[node] for node in nodes for child in node.children}
    guesses = nodes[1:]
    laws = tuple(node.law if node.children else None for node in nodes)
    return Draft(
        tuple(node.path[-1] for node in guesses),
        source,
        tuple(parents[node] for node in guesses),
        tuple(node.level for node in guesses),
        laws if laws[0] is not None else (),
        tuple(tuple(row_of[child] for child in node.draws) for node in nodes) if root.draws else (),
    )


METHOD = Method(
    name="tree",
    needs=(DRAFT_MODEL,),
    drafts=open_tree,
    needs_trees=True,
    chain_method="model",
    usual_rows=1 + MOST_GUESSES,
)

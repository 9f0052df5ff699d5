"""A tree of guesses while it grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.draft import Draft

__all__ = ["Node", "as_draft"]


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

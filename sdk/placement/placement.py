"""Node by node, where a bundle would run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import onnx

from skipstone.devices import DOORS, Door
from skipstone.errors import BundleError, ConfigError
from skipstone.placement.graph import CheckedGraph, sizes_of
from skipstone.placement.judge import reason_against
from skipstone.placement.partitions import num_partitions
from skipstone.placement.provider import ProviderRefusedError, has_provider, nodes_taken
from skipstone.placement.rules import SAME_AS, Rules, known_targets, rules_of
from skipstone.placement.shapes import operator_of

__all__ = ["GraphPlacement", "Group", "PlacedNode", "Target", "place_graph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNode:
    """One node. `reason` says why the target leaves it to the CPU; None where it takes it.

    A `folded` node is computed when the graph is loaded, and runs nowhere. `work` are its multiply-adds, None where its
    sizes are not known.
    """

    name: str
    operator: str
    work: int | None
    folded: bool = False
    reason: str | None = None

    @property
    def taken(self) -> bool:
        return not self.folded and self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes of one operator that run elsewhere for one reason."""

    operator: str
    reason: str
    num_nodes: int
    work: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlacement:
    """One graph, called with `rows` new tokens in a cache that holds `context` with them.

    `origin` says who answered: a table or the provider itself; `trouble` what the provider said if it did not open the
    graph.
    """

    file: str
    rows: int
    context: int
    nodes: tuple[PlacedNode, ...]
    partitions: int
    origin: str
    trouble: str | None = None

    @property
    def running(self) -> tuple[PlacedNode, ...]:
        """The nodes that run at every call."""
        return tuple(node for node in self.nodes if not node.folded)

    @property
    def taken(self) -> tuple[PlacedNode, ...]:
        """The nodes that the target takes."""
        return tuple(node for node in self.nodes if node.taken)

    @property
    def work(self) -> int:
        """Multiply-adds of a call, as far as they are known."""
        return sum(node.work or 0 for node in self.running)

    @property
    def taken_work(self) -> int:
        """Those of them that the target takes."""
        return sum(node.work or 0 for node in self.taken)

    @property
    def num_unknown(self) -> int:
        """How many nodes have sizes that are not known."""
        return sum(node.work is None for node in self.running)

    @property
    def elsewhere(self) -> tuple[Group, ...]:
        """What runs elsewhere, by operator and reason; what works most first."""
        groups: dict[tuple[str, str], list[PlacedNode]] = {}
        for node in self.running:
            if node.reason is not None:
                groups.setdefault((node.operator, node.reason), []).append(node)
        made = [
            Group(operator=operator, reason=reason, num_nodes=len(nodes), work=sum(node.work or 0 for node in nodes))
            for (operator, reason), nodes in groups.items()
        ]
        return tuple(sorted(made, key=lambda group: (-group.work, -group.num_nodes, group.operator)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a person asks about: its table, where there is one, and its provider, where it is here."""

    name: str
    rules: Rules | None
    door: Door | None

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the target or the device called `name`, such as nnapi or cuda:0.

        Raises: ConfigError when it is not known, or there is neither a table nor its provider.
        """
        name = name.strip().lower()
        base, doors = name.partition(":")[0], {door.name: door for door in DOORS}
        if base not in known_targets() and base not in doors:
            known = ", ".join(sorted({*known_targets(), *doors}))
            what = f"target {name!r} is not known" if name else "no target is named"
            raise ConfigError(f"{what}; known are {known}")
        door = doors.get(SAME_AS.get(base, base))
        here = door is not None and has_provider(door)
        if base not in known_targets() and not here:
            assert door is not None, "it is a device if it has no table"
            raise ConfigError(f"{name} can be asked only where its provider is: {door.install}")
        return cls(name=name, rules=rules_of(base) if base in known_targets() else None, door=door if here else None)


def place_graph(path: Path, target: Target, *, rows: int, context: int) -> GraphPlacement:
    """Return where each node of a graph would run; its work is that of `rows` rows on a cache of `context` tokens.

    Raises: BundleError when the file is no graph.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no base of their own
        raise BundleError(f"{path} is no ONNX graph: {error}") from error
    graph = CheckedGraph.of(model, numbers=sizes_of(model, rows=rows, context=context), context=context)
    origin, trouble, taken = target.rules.origin if target.rules else "", None, None
    if target.door is not None:
        try:
            taken = nodes_taken(model, path.parent, target.door, target.rules)
            origin = f"{target.door.provider} itself, onnxruntime {_version()}"
        except ProviderRefusedError as error:
            trouble = str(error)
    nodes = tuple(_placed(graph, target, taken, trouble))
    names = {name for place in _places(nodes) if place not in graph.inner for name in graph.nodes[place].output}
    partitions = num_partitions(model.graph, names)
    return GraphPlacement(
        file=path.name,
        rows=rows,
        context=context,
        nodes=nodes,
        partitions=partitions,
        origin=origin,
        trouble=trouble,
    )


def _places(nodes: tuple[PlacedNode, ...]) -> Iterator[int]:
    return (place for place, node in enumerate(nodes) if node.taken)


def _placed(
    graph: CheckedGraph, target: Target, taken: frozenset[int] | None, trouble: str | None
) -> Iterator[PlacedNode]:
    title = target.rules.title if target.rules else target.name
    for place, node in enumerate(graph.nodes):
        by_table = reason_against(node, graph, target.rules) if target.rules else None
        if taken is not None:
            reason = None if place in taken else by_table or f"{title} itself leaves it to the CPU"
        elif target.rules is None or not target.rules.operators:
            reason = f"{title} does not open the graph"
        else:
            reason = by_table
        yield PlacedNode(
            name=node.name or f"{node.op_type}_{place}",
            operator=operator_of(node),
            work=graph.work[place],
            folded=place in graph.folded,
            reason=None if place in graph.folded else reason,
        )


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)

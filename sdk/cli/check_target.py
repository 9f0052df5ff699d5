"""skipstone check-target: node by node, what of a bundle would run where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipstone.cli.options import BundleArgument, JsonOption
from skipstone.cli.terminal import aligned_left, print_columns, print_json, write

if TYPE_CHECKING:
    from skipstone.placement import BundlePlacement, GraphPlacement, Group, PlacedNode

NAME = "check-target"
EXAMPLES = """\b
Examples:
  skipstone check-target pebble nnapi
  skipstone check-target my-bundle qnn --nodes
  skipstone check-target my-bundle coreml --rows 8 --context 2048 --json"""


MOST_NAMED = 4


def run(
    bundle: BundleArgument,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="What it shall run on: nnapi, coreml, or a device such as cuda:0.")
    ],
    nodes: Annotated[bool, typer.Option("--nodes", help="Show every node.")] = False,
    every_graph: Annotated[
        bool,
        typer.Option("--all", help="Also the graphs that a plain call does not run: other caches, prompts, exits."),
    ] = False,
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="New tokens of a call.")] = 1,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", metavar="N", help="Tokens in the cache, new ones with them; by default 1024 at most."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show node by node what of a bundle would run where.

    What a target takes, what stays on the CPU and why, and what would have to change. Where the target's execution
    provider is here, it is asked itself; elsewhere a table of its operators answers. Multiply-adds are those of
    products of matrices, attention and experts.
    """
    from skipstone.cli.naming import bundle_folder
    from skipstone.placement import check_target
    from skipstone.runtime.bundle import Bundle

    placement = check_target(
        Bundle.open(bundle_folder(bundle)), target, rows=rows, context=context, every_graph=every_graph
    )
    if as_json:
        print_json(_as_json(placement))
    else:
        _print(placement, nodes=nodes)


def _print(placement: BundlePlacement, *, nodes: bool) -> None:
    for graph in placement.graphs:
        print_columns(_facts(graph, placement))
        if lines := _elsewhere(graph):
            write("\n" + aligned_left([["nodes", "multiply-adds", "on the CPU because", "operators"], *lines]))
        if nodes:
            write("\n" + aligned_left([["node", "operator", "where"], *map(_node_cells, graph.nodes)]))
        write("\n")
    changes = placement.changes or (("nothing: it takes all of it",) if placement.node_share == 1 else ())
    print_columns(("to change" if not at else "", change) for at, change in enumerate(changes or ("nothing known",)))


def _facts(graph: GraphPlacement, placement: BundlePlacement) -> Iterator[tuple[str, str]]:
    name = placement.target.name
    running, folded = len(graph.running), len(graph.nodes) - len(graph.running)
    yield "graph", graph.file
    yield "answer of", graph.origin or "nobody"
    if graph.trouble:
        yield "not opened", graph.trouble
    at_load = f"; {folded} more are computed at load" if folded else ""
    yield "nodes", f"{len(graph.taken)} of {running} on {name}, {_percent(len(graph.taken), running)}{at_load}"
    unknown = f"; {graph.num_unknown} nodes of unknown size" if graph.num_unknown else ""
    sizes = f"{graph.rows} row{'s' * (graph.rows > 1)} at {graph.context} tokens"
    share = _percent(graph.taken_work, graph.work)
    yield "multiply-adds", f"{share} of {_millions(graph.work)} million ({sizes}){unknown}"
    yield (
        "pieces",
        f"{graph.partitions}" + (", each handed over and back at every call" if graph.partitions > 1 else ""),
    )


def _elsewhere(graph: GraphPlacement) -> list[list[str]]:
    """Return a line for each reason: how much runs on the CPU for it, and of which operators."""
    by_reason: dict[str, list[Group]] = {}
    for group in graph.elsewhere:
        by_reason.setdefault(group.reason.removeprefix(f"{group.operator} is "), []).append(group)
    lines = []
    for reason, groups in by_reason.items():
        named = ", ".join(f"{group.operator} {group.num_nodes}" for group in groups[:MOST_NAMED])
        more = f" and {len(groups) - MOST_NAMED} more" if len(groups) > MOST_NAMED else ""
        share = _percent(sum(group.work for group in groups), graph.work)
        lines.append([str(sum(group.num_nodes for group in groups)), share, reason, named + more])
    return lines


def _node_cells(node: PlacedNode) -> list[str]:
    where = "at load" if node.folded else node.reason or "taken"
    return [node.name, node.operator, where if node.taken or node.folded else f"CPU: {where}"]


def _percent(part: int, whole: int) -> str:
    if not whole:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 1 or 99 < share < 100:
        return "<1 %" if share < 1 else ">99 %"
    return f"{share:.0f} %"


def _millions(work: int) -> str:
    return f"{work / 1e6:,.1f}" if work < 1e8 else f"{work / 1e6:,.0f}"


def _as_json(placement: BundlePlacement) -> dict[str, Any]:
    rules = placement.target.rules
    return {
        "target": placement.target.name,
        "node_share": placement.node_share,
        "work_share": placement.work_share,
        "sources": list(rules.sources) if rules else [],
        "graphs": [_graph_as_json(graph) for graph in placement.graphs],
        "to_change": list(placement.changes),
    }


def _graph_as_json(graph: GraphPlacement) -> dict[str, Any]:
    return {
        "file": graph.file,
        "rows": graph.rows,
        "context": graph.context,
        "answer_of": graph.origin,
        "not_opened": graph.trouble,
        "nodes": len(graph.nodes),
        "nodes_at_load": len(graph.nodes) - len(graph.running),
        "nodes_taken": len(graph.taken),
        "multiply_adds": graph.work,
        "multiply_adds_taken": graph.taken_work,
        "nodes_of_unknown_size": graph.num_unknown,
        "pieces": graph.partitions,
        "elsewhere": [
            {"operator": group.operator, "reason": group.reason, "nodes": group.num_nodes, "multiply_adds": group.work}
            for group in graph.elsewhere
        ],
        "each_node": [
            {
                "name": node.name,
                "operator": node.operator,
                "place": "load" if node.folded else "target" if node.taken else "cpu",
                "reason": node.reason,
                "multiply_adds": node.work,
            }
            for node in graph.nodes
        ],
    }

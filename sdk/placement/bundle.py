"""Where the graphs of a bundle would run, and what would have to change for more of them to run there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from skipstone.bundled import checkpoint_told
from skipstone.errors import ConfigError
from skipstone.exporters.graph import TARGETS
from skipstone.placement.judge import DYNAMIC, OUTSIDE, WRONG_TYPE
from skipstone.placement.placement import GraphPlacement, Group, Target, place_graph
from skipstone.runtime.bundle import Bundle, Manifest, graph_of, kind_and_cache

__all__ = ["BundlePlacement", "check_target"]

USUAL_CONTEXT: Final = 1024
DEFAULT: Final = "ort"
PLAIN: Final = "plain"
TAKE_FUSED: Final = frozenset({"cpu", "android-cpu", "cuda", "webgpu"})
"""Targets that have the fused operators of onnxruntime."""
MOST_NAMED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlacement:
    """A bundle on a target: its graphs, and what could be changed."""

    target: Target
    graphs: tuple[GraphPlacement, ...]
    changes: tuple[str, ...]

    @property
    def node_share(self) -> float:
        """Share of the nodes of a call that the target takes, 0 to 1."""
        running = sum(len(graph.running) for graph in self.graphs)
        return sum(len(graph.taken) for graph in self.graphs) / running if running else 0.0

    @property
    def work_share(self) -> float:
        """Share of the multiply-adds of a call that the target takes, 0 to 1."""
        work = sum(graph.work for graph in self.graphs)
        return sum(graph.taken_work for graph in self.graphs) / work if work else 0.0


def check_target(
    bundle: Bundle, target: str, *, rows: int = 1, context: int | None = None, every_graph: bool = False
) -> BundlePlacement:
    """Return where the graphs of a plain call would run, or `every_graph` of the bundle, its draft model left out.

    Raises: ConfigError when the target is not known or the sizes do not fit; BundleError when a graph cannot be read.
    """
    named, manifest = Target.named(target), bundle.manifest
    most = manifest.context_length
    context = min(USUAL_CONTEXT, most) if context is None else context
    if not 1 <= rows <= context <= most:
        raise ConfigError(f"{rows} rows and a context of {context} do not fit: 1 to the context, which ends at {most}")
    files = _every_file(manifest) if every_graph else _plain_files(manifest, rows, context)
    fixed = _fixed_sizes(manifest)
    graphs = tuple(
        place_graph(bundle.file(file), named, rows=of_rows, context=of_context)
        for file in files
        for of_rows, of_context in [fixed.get(file, (rows, context))]
    )
    return BundlePlacement(target=named, graphs=graphs, changes=tuple(_changes(manifest, named, graphs)))


def _plain_files(manifest: Manifest, rows: int, context: int) -> list[str]:
    """Return the graphs of a plain call, those of the next larger fixed sizes where there are such."""
    files = [*(stage.file for stage in manifest.stages), *([manifest.head] if manifest.head else [])]
    buckets = manifest.buckets
    kind = buckets.kind(buckets.rows_for(rows), buckets.context_for(context)) if buckets else ""
    return [graph_of(file, manifest.variants, kind=kind, cache_type=manifest.cache_type) for file in files]


def _every_file(manifest: Manifest) -> list[str]:
    draft = f"{manifest.draft_model}/" if manifest.draft_model else None
    return sorted(file for file in manifest.files if file.endswith(".onnx") and not (draft and file.startswith(draft)))


def _fixed_sizes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return rows and context of graphs of fixed sizes, by their files."""
    if (buckets := manifest.buckets) is None:
        return {}
    kinds = {buckets.kind(*sizes): sizes for sizes in itertools.product(buckets.rows, buckets.contexts)}
    return {
        file: kinds[kind]
        for variant, files in manifest.variants.items()
        if (kind := kind_and_cache(variant)[0]) in kinds
        for file in files.values()
    }


def _changes(manifest: Manifest, target: Target, graphs: tuple[GraphPlacement, ...]) -> list[str]:
    """Return what could be changed, as sentences."""
    groups = [group for graph in graphs for group in graph.elsewhere]
    if any(graph.trouble for graph in graphs):
        return ["what keeps the provider from opening the graph; the shares are what the table says of it"]
    made_for = manifest.target
    better = _export_target(target.name.partition(":")[0])
    if not groups:
        return []
    if better != made_for:
        needs = "; ".join(_needs(groups)) or "other graphs"
        return [f"{needs}: skipstone export {checkpoint_told(manifest)} -o NEW --target {better}"]
    left = sorted({group.operator for group in groups if group.work})
    return [f"{', '.join(left)} stay on the CPU, whatever export does"] if left else []


def _export_target(name: str) -> str:
    """Return the target of an export whose graphs suit a target best."""
    if name in TARGETS:
        return name
    return DEFAULT if name in TAKE_FUSED else PLAIN


def _needs(groups: list[Group]) -> Iterator[str]:
    reasons = {group.reason for group in groups}
    operators = sorted({group.operator for group in groups if group.reason.startswith(f"{group.operator} is not ")})
    if operators:
        few = ", ".join(operators[:MOST_NAMED]) + (" and others" if len(operators) > MOST_NAMED else "")
        yield f"other operators in place of {few}"
    if DYNAMIC in reasons:
        yield "sizes that are numbers"
    if any(reason.endswith(WRONG_TYPE) for reason in reasons):
        yield "numbers of another type"
    if OUTSIDE in reasons:
        yield "weights inside of the graphs' files"

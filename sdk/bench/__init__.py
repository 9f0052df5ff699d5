"""Speed, measured: one bundle, methods beside each other, and recorded replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.bench.comparison import compare, method_names, unread
    from skipstone.bench.comparison_result import Cell, Comparison, Run
    from skipstone.bench.plot import (
        DialPoint,
        SizePoint,
        plot_comparison,
        plot_costs,
        plot_dial,
        plot_sizes,
        require_plot,
    )
    from skipstone.bench.replay import Recording, ReplayResult, read_recordings, replay_texts
    from skipstone.bench.speed import benchmark
    from skipstone.bench.suite import SUITES, Category, Prompt, Suite, bench_texts
    from skipstone.bench.threads import ThreadSpeed, measure_threads

__all__ = [
    "SUITES",
    "Category",
    "Cell",
    "Comparison",
    "DialPoint",
    "Prompt",
    "Recording",
    "ReplayResult",
    "Run",
    "SizePoint",
    "Suite",
    "ThreadSpeed",
    "bench_texts",
    "benchmark",
    "compare",
    "measure_threads",
    "method_names",
    "plot_comparison",
    "plot_costs",
    "plot_dial",
    "plot_sizes",
    "read_recordings",
    "replay_texts",
    "require_plot",
    "unread",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Category": "skipstone.bench.suite",
        "Cell": "skipstone.bench.comparison_result",
        "Comparison": "skipstone.bench.comparison_result",
        "DialPoint": "skipstone.bench.plot",
        "Prompt": "skipstone.bench.suite",
        "Recording": "skipstone.bench.replay",
        "ReplayResult": "skipstone.bench.replay",
        "Run": "skipstone.bench.comparison_result",
        "SUITES": "skipstone.bench.suite",
        "SizePoint": "skipstone.bench.plot",
        "Suite": "skipstone.bench.suite",
        "ThreadSpeed": "skipstone.bench.threads",
        "bench_texts": "skipstone.bench.suite",
        "benchmark": "skipstone.bench.speed",
        "compare": "skipstone.bench.comparison",
        "measure_threads": "skipstone.bench.threads",
        "method_names": "skipstone.bench.comparison",
        "plot_comparison": "skipstone.bench.plot",
        "plot_costs": "skipstone.bench.plot",
        "plot_dial": "skipstone.bench.plot",
        "plot_sizes": "skipstone.bench.plot",
        "read_recordings": "skipstone.bench.replay",
        "replay_texts": "skipstone.bench.replay",
        "require_plot": "skipstone.bench.plot",
        "unread": "skipstone.bench.comparison",
    },
)

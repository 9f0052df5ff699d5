"""Pictures of measurements, with matplotlib: `pip install skipstone[plot]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from skipstone.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from skipstone.bench.comparison_result import Comparison
    from skipstone.runtime.costs import CostCurve

__all__ = [
    "DialPoint",
    "SizePoint",
    "pareto_front",
    "plot_comparison",
    "plot_costs",
    "plot_dial",
    "plot_sizes",
    "require_matplotlib",
    "require_plot",
]

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#666666")
INK, FAINT = "#333333", "#dddddd"
GROUP_WIDTH = 0.84  # of the room that a category has, for its bars
MEAN_GAP = 0.25
FORMATS = (".png", ".svg")
LEAST_KL = 1e-6  # a logarithm has no zero


def require_matplotlib() -> None:
    """Raise ConfigError when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("drawing needs matplotlib, which is not installed; pip install skipstone[plot]")


def require_plot(path: Path) -> None:
    """Raise ConfigError or OutputError when no picture could be written to `path`, before anything is measured."""
    require_matplotlib()
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a picture is a .png or .svg file, got {path.name}; end the name so")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the ratio to plain decoding of each method, on each category and in the mean, as bars.

    Raises: ConfigError without matplotlib, OutputError when the file cannot be written.
    """
    methods = comparison.methods[1:] or comparison.methods
    places = [*map(float, range(len(comparison.categories))), len(comparison.categories) + MEAN_GAP]
    figure, axes = _figure(width=max(7.0, 1.2 + 0.32 * len(places) * (len(methods) + 1)))
    bar_width = GROUP_WIDTH / len(methods)
    for index, method in enumerate(methods):
        ratios = [comparison.cell(category, method).ratio for category in comparison.categories]
        bars = axes.bar(
            [place - GROUP_WIDTH / 2 + (index + 0.5) * bar_width for place in places],
            [*ratios, comparison.mean_ratio(method)],
            bar_width * 0.92,
            label=method,
            color=COLOURS[index % len(COLOURS)],
            hatch="//" * (index // len(COLOURS)),
            zorder=2,
        )
        for label in axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2.5, color=INK, zorder=4):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # the line of plain runs behind it
    axes.axhline(1.0, color=INK, linewidth=1.2, zorder=3)
    axes.text(1.002, 1.0, "plain", transform=axes.get_yaxis_transform(), fontsize=8.5, va="center", color=INK)
    axes.set_xticks(places, [*_category_labels(comparison), _mean_label(comparison)], fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("tokens/s, times plain")
    axes.margins(x=0.01, y=0.12)
    figure.legend(loc="outside lower center", ncols=min(len(methods), 8), frameon=False)
    figure.suptitle(_title(comparison), fontsize=11, color=INK)
    _save(figure, path)


def _category_labels(comparison: Comparison) -> list[str]:
    return [
        f"{category}\n(plain {comparison.cell(category, 'plain').tokens_per_s:.0f}/s)"
        for category in comparison.categories
    ]


def _mean_label(comparison: Comparison) -> str:
    without = f"\n(without {', '.join(comparison.adversarial)})" if comparison.adversarial else ""
    return f"geometric mean{without}"


def _title(comparison: Comparison) -> str:
    model = f"{Path(comparison.bundle).name}, {comparison.precision}"
    drafting = "" if comparison.draft_device in (None, comparison.device) else f" (drafting: {comparison.draft_device})"
    place = f"{comparison.device}{drafting}, threads: {comparison.threads}, {comparison.runtime}"
    work = f"suite {comparison.suite}, new tokens: {comparison.new_tokens}, rounds: {comparison.rounds}"
    return f"{model}, on {place}\n{work}"


def plot_costs(curve: CostCurve, *, title: str, path: Path) -> None:
    """Draw the milliseconds of a call over its rows, a line for each length of context.

    Raises: ConfigError without matplotlib, OutputError when the file cannot be written.
    """
    figure, axes = _figure(width=7.0)
    for context, times, colour in zip(curve.contexts, curve.seconds, COLOURS, strict=False):
        axes.plot(
            curve.rows,
            [1e3 * seconds for seconds in times],
            marker="o",
            markersize=4,
            color=colour,
            label=f"{context} cached tokens",
            zorder=2,
        )
    axes.set_xticks(curve.rows)
    axes.set_xlabel("rows")
    axes.set_ylabel("ms for a call")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.suptitle(title, fontsize=11, color=INK)
    _save(figure, path)


@dataclass(frozen=True, slots=True)
class DialPoint:
    """One setting of approximate decoding as a picture shows it; `expected` is the speed that was foretold, if any."""

    setting: float
    agreement: float
    times_plain: float
    expected: float | None = None


def plot_dial(points: Sequence[DialPoint], *, title: str, path: Path) -> None:
    """Draw the speed of approximate decoding over its agreement, a point for each setting.

    Raises: ConfigError without matplotlib, OutputError when the file cannot be written.
    """
    figure, axes = _figure(width=7.0)
    ordered = sorted(points, key=lambda point: point.setting)
    quality = [100 * point.agreement for point in ordered]
    axes.plot(quality, [one.times_plain for one in ordered], marker="o", color=COLOURS[0], label="measured", zorder=2)
    foretold = [(100 * one.agreement, one.expected) for one in ordered if one.expected is not None]
    if foretold:
        places, expected = zip(*foretold, strict=True)
        axes.plot(places, expected, marker="x", color=COLOURS[1], linestyle="--", label="expected", zorder=2)
        axes.legend(frameon=False)
    for one in ordered:
        place = (100 * one.agreement, one.times_plain)
        axes.annotate(f"{one.setting:g}", place, (0, 7), textcoords="offset points", fontsize=8.5, color=INK)
    axes.axhline(1.0, color=INK, linewidth=1.2, zorder=1)
    axes.invert_xaxis()
    axes.set_xlabel("% of tokens as the full model's (setting beside the point)")
    axes.set_ylabel("tokens/s, times plain")
    figure.suptitle(title, fontsize=11, color=INK)
    _save(figure, path)


@dataclass(frozen=True, slots=True)
class SizePoint:
    """A model as a picture of size and quality shows it: `kl` is KL(reference || model)."""

    name: str
    megabytes: float
    kl: float


def plot_sizes(points: Sequence[SizePoint], *, title: str, path: Path) -> None:
    """Draw KL over megabytes, a point for each model, and a line through those that no other beats in both.

    Raises: ConfigError without matplotlib, OutputError when the file cannot be written.
    """
    figure, axes = _figure(width=7.0)
    best = pareto_front(points)
    axes.plot(*_places(best), color=COLOURS[0], linewidth=1.2, zorder=1)
    for some, colour in ((best, COLOURS[0]), ([point for point in points if point not in best], COLOURS[7])):
        axes.plot(*_places(some), marker="o", linestyle="", color=colour, zorder=2)
    for point in points:
        place = (point.megabytes, max(point.kl, LEAST_KL))
        axes.annotate(point.name, place, (5, 5), textcoords="offset points", fontsize=8.5, color=INK)
    axes.set_yscale("log")
    axes.margins(x=0.2, y=0.1)
    axes.set_xlabel("MB")
    axes.set_ylabel("KL against the reference, nats per token")
    figure.suptitle(title, fontsize=11, color=INK)
    _save(figure, path)


def pareto_front(points: Sequence[SizePoint]) -> list[SizePoint]:
    """Return the points that no other beats in size and KL, the smallest first."""
    front = list[SizePoint]()
    for point in sorted(points, key=lambda point: (point.megabytes, point.kl)):
        if not front or point.kl < front[-1].kl:
            front.append(point)
    return front


def _places(points: Sequence[SizePoint]) -> tuple[list[float], list[float]]:
    return [point.megabytes for point in points], [max(point.kl, LEAST_KL) for point in points]


def _figure(*, width: float) -> tuple[Figure, Axes]:
    """Return an empty picture, `width` inches wide; it belongs to no window."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=160, format=path.suffix.lower().removeprefix("."))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error

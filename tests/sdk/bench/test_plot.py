"""Pictures: drawn where they can be, refused with a reason before anything is measured where not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import COMPARISON, runs_of

from skipstone.bench import Comparison, plot_comparison, plot_costs, require_plot
from skipstone.errors import ConfigError, OutputError
from skipstone.runtime.costs import CostCurve

PNG = b"\x89PNG\r\n\x1a\n"
CURVE = CostCurve(rows=(1, 2, 4), contexts=(64, 512), seconds=((0.001, 0.0011, 0.0014), (0.0012, 0.0013, 0.0017)))


def comparison_of(*methods: str) -> Comparison:
    """Return a comparison in which each method is a quarter faster than the one before it."""
    speeds = {
        (1, category, "one", method): 100.0 * 1.25**index
        for category in COMPARISON.categories
        for index, method in enumerate(methods)
    }
    return replace(COMPARISON, methods=methods, runs=runs_of(speeds))


@pytest.mark.parametrize("num_methods", [0, 1, 12])
def test_a_comparison_of_plain_and_few_or_many_methods_becomes_a_png(tmp_path: Path, num_methods: int) -> None:
    plot_comparison(comparison_of("plain", *(f"method {index}" for index in range(num_methods))), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


def test_a_cost_curve_becomes_a_png(tmp_path: Path) -> None:
    plot_costs(CURVE, title="a bundle on cpu", path=tmp_path / "costs.png")
    assert (tmp_path / "costs.png").read_bytes().startswith(PNG)


def test_without_matplotlib_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for attempt in (
        lambda: require_plot(tmp_path / "out.png"),
        lambda: plot_comparison(comparison_of("plain", "ngram"), tmp_path / "out.png"),
        lambda: plot_costs(CURVE, title="", path=tmp_path / "out.png"),
    ):
        with pytest.raises(ConfigError, match=r"pip install skipstone\[plot\]"):
            attempt()


def test_a_place_that_cannot_hold_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got out\.jpeg"):
        require_plot(tmp_path / "out.jpeg")
    with pytest.raises(OutputError, match="there is no folder"):
        require_plot(tmp_path / "missing" / "out.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        plot_costs(CURVE, title="", path=tmp_path / "folder.png")

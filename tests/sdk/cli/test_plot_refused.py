"""A picture that could not be drawn is refused before anything is loaded or measured."""

from __future__ import annotations

import pytest
from command_line import CommandLine


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "suite"),
        ("tune", "costs"),
        ("eval", "text", "--text", "none.txt"),
        ("eval", "method", "--text", "none.txt", "--decode", "exit"),
    ],
)
def test_without_matplotlib_every_plot_names_it_and_the_command_first(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("skipstone.bench.plot.find_spec", lambda name: None)
    done = cli(*words[:2], "no-such-bundle", *words[2:], "--plot", "out.png")
    assert done.code == 2
    assert "needs matplotlib" in done.err and "pip install skipstone[plot]" in done.err

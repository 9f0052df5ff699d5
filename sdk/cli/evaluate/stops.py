"""skipstone eval --stop-below: what completions are worth that end where the model gets unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model

__all__ = ["judge_stops", "stop_settings"]

NUM_PROMPTS = 100


def stop_settings(given: Sequence[str]) -> tuple[float, ...]:
    """Return settings of `stop_below`, each option one or several apart by commas. Raises: ConfigError for others."""
    from skipstone.runtime.text import StopDecision

    try:
        settings = tuple(float(one) for option in given for one in option.split(","))
    except ValueError as error:
        raise ConfigError(f"--stop-below takes numbers, such as 0.2 or 0,0.1,0.4; got {','.join(given)}") from error
    for setting in settings:
        StopDecision(setting)
    return settings


def judge_stops(
    model: Model, texts: list[str], settings: Sequence[float], bundle: str, *, as_json: bool, quiet: bool
) -> None:
    """Complete pieces of the texts at each setting, and print what came of it."""
    from skipstone.evaluate import evaluate_stop

    with progress_bar("completing", total=NUM_PROMPTS, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
        rows = evaluate_stop(
            model,
            texts,
            settings,
            num_prompts=NUM_PROMPTS,
            on_progress=lambda count: progress.advance(task, count),
        )
    if as_json:
        print_json({"bundle": bundle, "approximate": "stop_below", "settings": [asdict(row) for row in rows]})
        return
    head = ["stop below", "suppressed", "tokens shown", "precision", "tokens saved", "ms each", "tokens/s"]
    cells = [
        [
            f"{row.stop_below:g}",
            f"{row.suppressed:.1%}",
            f"{row.tokens:.1f}",
            f"{row.precision:.1%}",
            f"{row.saved:.1%}",
            f"{row.ms:.1f}",
            f"{row.tokens_per_s:.1f}",
        ]
        for row in rows
    ]
    write("approximate decoding: completions of at most 16 tokens, ended where the model is unsure")
    write("\n" + markdown_table(head, cells))

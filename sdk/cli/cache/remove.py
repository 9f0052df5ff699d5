"""skipstone cache remove: be rid of kept exports."""

from __future__ import annotations

import time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Final

import typer

from skipstone.cli.options import QuietOption
from skipstone.cli.terminal import notes
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.by_name import KeptExport

__all__ = ["NAME", "run"]

NAME = "remove"
EXAMPLES = """\b
Examples:
  skipstone cache remove ./model.gguf
  skipstone cache remove --older-than 30
  skipstone cache remove --all"""
DAY_S: Final = 86400


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of `skipstone cache`, or what they are of.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all kept exports.")] = False,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove what was not used for so many days.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Remove exports that are kept of models run by name. They are made again when they are run."""
    from skipstone.by_name import kept_exports

    ways = [bool(names), everything, older_than is not None]
    if sum(ways) != 1:
        raise ConfigError(
            "say what to remove in one way: names as `skipstone cache` lists them, --all, or --older-than"
        )
    kept = kept_exports()
    if names:
        kept = [_named(name, kept) for name in names]
    elif older_than is not None:
        kept = [export for export in kept if time.time() - export.last_used > older_than * DAY_S]
    for export in dict.fromkeys(kept):
        export.remove()
        notes(quiet=quiet).print(f"removed {export.name}")
    if not kept:
        notes(quiet=quiet).print("nothing to remove")


def _named(name: str, kept: list[KeptExport]) -> KeptExport:
    """Return the export of that name, or the one that was made of it. Raises: ConfigError."""
    from pathlib import Path

    for export in kept:
        if name in (export.name, export.asked, *export.sources) or str(Path(name).resolve()) in export.sources:
            return export
    near = get_close_matches(name, [export.name for export in kept], n=1)
    meant = f"did you mean {near[0]}?" if near else "`skipstone cache` lists what is"
    raise ConfigError(f"no export named {name} is kept; {meant}")

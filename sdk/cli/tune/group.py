"""`skipstone tune`: what is measured once on this device, and kept for later commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from skipstone.cli.command import DefaultGroup, OldSwitch, command_group
from skipstone.cli.tune import active, costs, dial, exits, skip, threads

__all__ = ["tune"]

HELP = """Measure and calibrate a bundle here.

    Without COMMAND it runs `costs`. `skipstone tune COMMAND --help` tells of each.
    """
EXAMPLES = """\b
Examples:
  skipstone tune pebble
  skipstone tune exits my-bundle --text notes.txt"""


class TuneGroup(DefaultGroup):
    """Runs `costs` where no command is named."""

    default = "costs"
    old: ClassVar[Mapping[str, OldSwitch]] = {
        "--exits": OldSwitch("exits"),
        "--skip": OldSwitch("skip"),
        "--dial": OldSwitch("dial", now="--decode"),
    }


tune = command_group(TuneGroup, costs, exits, skip, active, dial, threads, help_text=HELP, examples=EXAMPLES)

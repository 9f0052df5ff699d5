"""`skipstone bench`: speed, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from skipstone.cli.bench import replay, speed, suite
from skipstone.cli.command import DefaultGroup, OldSwitch, command_group

__all__ = ["bench"]

HELP = """Measure how fast a bundle is here.

    Without COMMAND it runs `speed`. `skipstone bench COMMAND --help` tells of each.
    """
EXAMPLES = """\b
Examples:
  skipstone bench pebble
  skipstone bench suite pebble --decode ngram,suffix+model,auto"""


class BenchGroup(DefaultGroup):
    """Runs `speed` where no command is named."""

    default = "speed"
    old: ClassVar[Mapping[str, OldSwitch]] = {
        "--suite": OldSwitch("suite", now="--suite"),
        "--replay": OldSwitch("replay", now="--text"),
    }


bench = command_group(BenchGroup, speed, suite, replay, help_text=HELP, examples=EXAMPLES)

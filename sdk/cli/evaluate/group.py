"""`skipstone eval`: quality, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from skipstone.cli.command import DefaultGroup, OldSwitch, command_group
from skipstone.cli.evaluate import choices, method, sparsity, stops, text

__all__ = ["evaluate"]

HELP = """Measure the quality of a bundle.

    Without COMMAND it runs `text`. `skipstone eval COMMAND --help` tells of each.
    """
EXAMPLES = """\b
Examples:
  skipstone eval pebble --text notes.txt
  skipstone eval method my-bundle --text notes.txt --decode exit"""


class EvaluateGroup(DefaultGroup):
    """Runs `text` where no command is named."""

    default = "text"
    old: ClassVar[Mapping[str, OldSwitch]] = {
        "--decode": OldSwitch("method", now="--decode"),
        "--stop-below": OldSwitch("stops", now="--stop-below"),
    }


evaluate = command_group(EvaluateGroup, text, method, stops, choices, sparsity, help_text=HELP, examples=EXAMPLES)

"""`skipstone cache`: what is kept of models that were run by name, and how to be rid of it."""

from __future__ import annotations

from skipstone.cli.cache import listing, remove
from skipstone.cli.command import DefaultGroup, command_group

__all__ = ["cache"]

HELP = """Show what is kept in the user's cache, or remove it.

    A checkpoint that is run by name is exported once and kept. Without COMMAND it runs `list`.
    """
EXAMPLES = """\b
Examples:
  skipstone cache
  skipstone cache remove SmolLM2-135M-Instruct-1c7bd1d6f0aa
  skipstone cache remove --older-than 30"""


class CacheGroup(DefaultGroup):
    """Runs `list` where no command is named."""

    default = "list"


cache = command_group(CacheGroup, listing, remove, help_text=HELP, examples=EXAMPLES, metavar="[COMMAND] ...")

"""A talk in the terminal: messages and commands in, answers out."""

from __future__ import annotations

from skipstone.cli.talk.commands import TOLD
from skipstone.cli.talk.editor import Editor, Lines, can_edit
from skipstone.cli.talk.talk import Source, Talk

__all__ = ["TOLD", "Editor", "Lines", "Source", "Talk", "can_edit"]

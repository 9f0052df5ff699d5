"""Where guesses come from: one file for each way to draft, opened by name."""

from skipstone.runtime.drafters.drafter import Drafter, PlainDrafter, Round
from skipstone.runtime.drafters.registry import DrafterContext, open_drafter, registered_drafters

__all__ = ["Drafter", "DrafterContext", "PlainDrafter", "Round", "open_drafter", "registered_drafters"]

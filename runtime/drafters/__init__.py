"""Where guesses come from: one file for each way to draft, opened by name."""

from skipstone.runtime.drafters.drafter import Drafter, PlainDrafter, Round
from skipstone.runtime.drafters.registry import DrafterContext, SharedStores, open_drafter, registered_drafters

__all__ = ["Drafter", "DrafterContext", "PlainDrafter", "Round", "SharedStores", "open_drafter", "registered_drafters"]

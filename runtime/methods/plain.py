"""Plain decoding: no guesses, one token per model call."""

from __future__ import annotations

from skipstone.runtime.decoding import PlainDrafter
from skipstone.runtime.methods.method import Method

__all__ = ["METHOD", "PLAIN"]

METHOD = PLAIN = Method(
    name="plain",
    drafts=lambda context: PlainDrafter(),
    stands_alone=True,
    text_only=True,
    takes_batches=True,
    usual_rows=1,
    verifies=False,
)

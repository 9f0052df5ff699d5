"""What the terminal shows of drafting: guessed tokens in the colour of their drafter, and the figures."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.generation import Piece
    from skipstone.runtime.model import Model
    from skipstone.runtime.stats import Stats

__all__ = ["DraftPainter", "speed_line", "stats_table"]

COLOURS = (32, 36, 33, 35, 34, 31)  # of ANSI: green, cyan, yellow, magenta, blue, red


class DraftPainter:
    """Colours the tokens of a text by the drafter that guessed them; the model's own stay as they are."""

    def __init__(self, model: Model, *, last_id: int) -> None:
        """`last_id` is the prompt's last token. Raises: ConfigError where no colours can be shown."""
        from skipstone.runtime.text_stream import TextStream

        shown = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
        if not shown or "NO_COLOR" in os.environ:
            raise ConfigError("--show-drafts needs a terminal with colours; --stats gives the figures without")
        self._stream = TextStream(model.tokenizer, after=last_id)
        self._waiting: list[tuple[str, str | None]] = []
        self._drafters: list[str] = []

    def paint(self, piece: Piece) -> str:
        """Return the text of a piece with its colours."""
        for index, token_id in enumerate(piece.token_ids):
            guessed = piece.drafter if index < piece.num_guessed else None
            self._waiting.append((self._stream.push(token_id), guessed))
        if piece.finish_reason is not None:
            self._waiting.append((self._stream.flush(), None))
        return self._take(len(piece.text))

    def _take(self, length: int) -> str:
        """Return the next `length` characters; what a stop string may still swallow waits."""
        painted = []
        while self._waiting and length:
            text, drafter = self._waiting.pop(0)
            if len(text) > length:
                self._waiting.insert(0, (text[length:], drafter))
            painted.append(self._coloured(text[:length], drafter))
            length -= min(length, len(text))
        return "".join(painted)

    def _coloured(self, text: str, drafter: str | None) -> str:
        if drafter is None or not text:
            return text
        if drafter not in self._drafters:
            self._drafters.append(drafter)
        colour = COLOURS[self._drafters.index(drafter) % len(COLOURS)]
        return f"\033[{colour}m{text}\033[0m"

    def legend(self) -> str:
        """Return the drafters that were seen, each in its colour."""
        return "guessed by " + (", ".join(self._coloured(name, name) for name in self._drafters) or "nobody")


def speed_line(stats: Stats) -> str:
    """Return the speed of a generation in one line."""
    return (
        f"{stats.prompt_tokens} prompt tokens at {stats.prefill_tokens_per_s:.0f}/s, "
        f"{stats.new_tokens} new at {stats.decode_tokens_per_s:.1f}/s, peak {stats.peak_memory_bytes / 1e6:.0f} MB"
    )


def stats_table(stats: Stats) -> str:
    """Return tokens per call, what each drafter guessed, and the milliseconds of each part."""
    lines = [f"{stats.model_calls} model calls, {stats.tokens_per_call:.2f} tokens each"]
    for name, drafter in stats.drafters.items():
        share = drafter.accepted / drafter.drafted
        lines.append(
            f"{name:9} {drafter.rounds:5} drafts, {drafter.drafted:5} tokens guessed, "
            f"{drafter.accepted:5} accepted ({share:.0%})"
        )
    parts = {"draft": stats.draft_s, "model": stats.model_s, "accept": stats.accept_s, "other": stats.other_s}
    lines.append("ms: " + ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in parts.items()))
    return "\n".join(lines)

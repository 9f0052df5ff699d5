"""What the terminal shows of tokens: guessed ones in the colour of their drafter, early ones in that of their depth."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model
    from skipstone.runtime.generation import Piece, Stats

__all__ = ["DepthPainter", "DraftPainter", "speed_line", "stats_table"]

COLOURS = (32, 36, 33, 35, 34, 31)  # of ANSI: green, cyan, yellow, magenta, blue, red


SHOWN_S = 0.05  # what took less is not worth a word


class _Painter:
    """Colours the tokens of a text by their makers; those without a name stay as they are."""

    def __init__(self, model: Model, *, last_id: int, option: str) -> None:
        """`last_id` is the prompt's last token. Raises: ConfigError where no colours can be shown."""
        from skipstone.runtime.text import TextStream

        shown = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
        if not shown or "NO_COLOR" in os.environ:
            raise ConfigError(f"{option} needs a terminal with colours; --stats gives the figures without")
        self._stream = TextStream(model.tokenizer, after=last_id)
        self._waiting: list[tuple[str, str | None]] = []
        self._makers: list[str] = []

    def _paint(self, piece: Piece, makers: Iterable[str | None]) -> str:
        """Return the text of a piece in the colours of `makers`, one for each of its tokens."""
        for token_id, maker in zip(piece.token_ids, makers, strict=True):
            self._waiting.append((self._stream.push(token_id), maker))
        if piece.finish_reason is not None:
            self._waiting.append((self._stream.flush(), None))
        return self._take(len(piece.text))

    def _take(self, length: int) -> str:
        """Return the next `length` characters; what a stop string may still swallow waits."""
        painted = []
        while self._waiting and length:
            text, maker = self._waiting.pop(0)
            if len(text) > length:
                self._waiting.insert(0, (text[length:], maker))
            painted.append(self._coloured(text[:length], maker))
            length -= min(length, len(text))
        return "".join(painted)

    def _coloured(self, text: str, maker: str | None) -> str:
        if maker is None or not text:
            return text
        if maker not in self._makers:
            self._makers.append(maker)
        colour = COLOURS[self._makers.index(maker) % len(COLOURS)]
        return f"\033[{colour}m{text}\033[0m"

    def _seen(self) -> str:
        return ", ".join(self._coloured(name, name) for name in self._makers)


class DraftPainter(_Painter):
    """Colours the tokens of a text by the drafter that guessed them; the model's own stay as they are."""

    def __init__(self, model: Model, *, last_id: int) -> None:
        super().__init__(model, last_id=last_id, option="--show-drafts")

    def paint(self, piece: Piece) -> str:
        """Return the text of a piece with its colours."""
        count = len(piece.token_ids)
        return self._paint(piece, [piece.drafter if index < piece.num_guessed else None for index in range(count)])

    def legend(self) -> str:
        """Return the drafters that were seen, each in its colour."""
        return f"guessed by {self._seen() or 'nobody'}"


class DepthPainter(_Painter):
    """Colours the tokens that fewer than all layers made by how many; `little`: those are all of the small model."""

    def __init__(self, model: Model, *, last_id: int, little: bool = False) -> None:
        super().__init__(model, last_id=last_id, option="--show-depth")
        self._num_layers, self._little = model.manifest.dimensions.num_layers, little

    def paint(self, piece: Piece) -> str:
        """Return the text of a piece with its colours."""
        maker = None
        if piece.depth is not None and piece.depth < self._num_layers:
            layers = f"{piece.depth} layer{'s' * (piece.depth > 1)}"
            maker = f"the small model ({layers})" if self._little else layers
        return self._paint(piece, [maker] * len(piece.token_ids))

    def legend(self) -> str:
        """Return the depths that were seen, each in its colour."""
        rest = f"all {self._num_layers} layers"
        return f"made by {self._seen()}, the rest by {rest}" if self._makers else f"made by {rest}"


def speed_line(stats: Stats) -> str:
    """Return the speed of a generation in one line."""
    measured = f"; measured this device once in {stats.measuring_s:.1f} s" if stats.measuring_s >= SHOWN_S else ""
    return (
        f"{stats.prompt_tokens} prompt tokens at {stats.prefill_tokens_per_s:.0f}/s, "
        f"{stats.new_tokens} new at {stats.decode_tokens_per_s:.1f}/s, peak {stats.peak_memory_bytes / 1e6:.0f} MB"
        f"{measured}"
    )


def stats_table(stats: Stats) -> str:
    """Return tokens per call, what each drafter guessed or each depth made, and the milliseconds of each part."""
    lines = [f"{stats.model_calls} model calls, {stats.tokens_per_call:.2f} tokens each"]
    if stats.same_text is not None:
        lines.append(f"text: {stats.same_text}")
    if stats.threads:
        told = ", ".join(f"{count} on {threads}" for threads, count in stats.threads.items())
        lines.append(
            f"calls by threads: {told}"
            + (" (fewer while the machine is busy, or to try)" if len(stats.threads) > 1 else "")
        )
    for depth, count in stats.depths.items():
        lines.append(f"{f'{depth} layers':9} {count:5} tokens made ({count / stats.new_tokens:.0%})")
    for name, drafter in stats.drafters.items():
        share = drafter.accepted / drafter.drafted
        lines.append(
            f"{name:9} {drafter.rounds:5} drafts, {drafter.drafted:5} tokens guessed, "
            f"{drafter.accepted:5} accepted ({share:.0%})"
        )
    parts = {"draft": stats.draft_s, "model": stats.model_s, "accept": stats.accept_s, "other": stats.other_s}
    if stats.seed is not None:
        lines.append(f"seed {stats.seed}: the same seed gives the same text")
    lines.append("ms: " + ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in parts.items()))
    return "\n".join(lines)

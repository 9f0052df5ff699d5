"""Who waits for a text: it may cancel it, hears how its prompt is read, and what was measured for it first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from skipstone.devices import Cancellation, Cancelled, cancellable
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import MeasuringWatch, measured_by
from skipstone.runtime.engine import PromptProgress, PromptWatch, watched_by
from skipstone.runtime.generation.generation import Piece, cancelled_piece

__all__ = ["TextWatch"]

T = TypeVar("T")


class TextWatch:
    """Watches all that is done for a text, or for several that are made together, in whatever thread asks for it.

    Work is watched `meanwhile`, and while the pieces that it is `over` are asked for; not between them.
    """

    def __init__(
        self,
        cancel: Cancellation | None = None,
        on_prompt: Callable[[PromptProgress], None] | None = None,
        *,
        on_measuring: Callable[[str], None] | None = None,
    ) -> None:
        """`on_prompt` hears of each piece of a prompt, `on_measuring` what is measured. Raises: ConfigError."""
        if cancel is not None and not isinstance(cancel, Cancellation):
            raise ConfigError(f"cancel must be a skipstone.Cancellation, got {cancel!r}")
        for name, listener in (("on_prompt", on_prompt), ("on_measuring", on_measuring)):
            if listener is not None and not callable(listener):
                raise ConfigError(f"{name} must be a function, got {listener!r}")
        self._cancellation = cancel
        self.prompt = PromptWatch(on_prompt)
        self.measuring = MeasuringWatch(on_measuring or (lambda what: None))

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Watch what this thread does."""
        with ExitStack() as watching:
            watching.enter_context(cancellable(self._cancellation))
            watching.enter_context(watched_by(self.prompt))
            watching.enter_context(measured_by(self.measuring))
            yield

    def opened(self, begin: Callable[[], Iterator[Piece]], *, num_prompt_tokens: int) -> Iterator[Piece]:
        """Return the pieces of a text that `begin` gives; one that is cancelled before that ends at once."""
        try:
            with self.meanwhile():
                pieces = begin()
        except Cancelled:
            pieces = iter((cancelled_piece(num_prompt_tokens),))
        return self.over(pieces)

    def over(self, pieces: Iterator[T]) -> Generator[T, None, None]:
        """Yield pieces, or pairs of a number and a piece, each made under watch; the last says what was measured."""
        try:
            while True:
                with self.meanwhile():
                    try:
                        piece = next(pieces)
                    except StopIteration:
                        return
                self.prompt.has_begun = True
                yield self._with_measuring(piece)
        finally:
            if isinstance(pieces, Generator):
                pieces.close()

    def _with_measuring(self, piece: Any) -> Any:
        if isinstance(piece, tuple):
            return (piece[0], self._with_measuring(piece[1]))
        if not self.measuring.seconds or piece.stats is None:
            return piece
        return replace(piece, stats=replace(piece.stats, measuring_s=self.measuring.seconds))

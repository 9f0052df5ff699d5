"""Suggestions for a text while it is typed: what is cached of it is kept from key to key."""

from __future__ import annotations

from collections.abc import Callable, Generator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from threading import Lock
from typing import Final

from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.suggest import Suggestion, SuggestRequest, Way

__all__ = ["Suggester"]

PIECE: Final = 128  # tokens of a new text that are read at once; between two it can be cancelled
LEFT_OUT: Final = 4  # of a text that is too long, a quarter of the context leaves at a time


class Suggester:
    """What an editor asks at each key. It gives what `suggest` gives for the same text, and reads only what changed.

    One call is made at a time; others wait. `cancel` may come from any thread.
    """

    def __init__(self, model: Model, way: Way, request: SuggestRequest, *, context_length: int | None = None) -> None:
        """Raises: ConfigError where the context has no room for drafts."""
        self._model, self._way, self._request = model, way, request
        room = model.room().num_tokens if context_length is None else context_length
        self._sequence = model.new_sequence(context_length=room)
        self._lock, self._num_cancelled = Lock(), 0
        if self._sequence.capacity <= request.max_new_tokens:
            raise ConfigError(
                f"the context of {self._sequence.capacity} tokens has no room for drafts of "
                f"{request.max_new_tokens}; raise context_length or lower max_new_tokens"
            )

    @checks_arguments
    def suggest(
        self, text: str, *, max_new_tokens: int | None = None, wanted: Callable[[], bool] | None = None
    ) -> list[Suggestion]:
        """Return drafts of what follows `text`, the best first; none when it was cancelled, or for an empty text.

        `max_new_tokens` in place of the suggester's own, at most that: with 1 the first words come soonest. `wanted`
        is asked before each model step, and ends the call where it is False. Of a text that does not fit the context
        the end is read.
        Raises: ConfigError.
        """
        ticket, request = self._num_cancelled, self._request
        if max_new_tokens is not None:
            if max_new_tokens > request.max_new_tokens:
                raise ConfigError(
                    f"max_new_tokens {max_new_tokens} is more than the suggester's {request.max_new_tokens}, for which "
                    "it keeps room; make one for more"
                )
            request = replace(request, max_new_tokens=max_new_tokens)
        token_ids = self._model.tokenizer.encode(text) if text else []
        if not token_ids:
            return []
        with self._lock:
            steps = self._steps(self._fitting(token_ids), request)
            try:
                while self._num_cancelled == ticket and (wanted is None or wanted()):
                    next(steps)
            except StopIteration as end:
                suggestions: list[Suggestion] = end.value
                return suggestions
            finally:
                steps.close()
        return []

    def cancel(self) -> None:
        """End all calls that have begun, each after the model step in which it is."""
        self._num_cancelled += 1

    def _fitting(self, token_ids: list[int]) -> list[int]:
        """Return the end of a text that fits. It begins at few places, so that the next key finds it cached."""
        excess = len(token_ids) + self._request.max_new_tokens - self._sequence.capacity
        size = max(1, self._sequence.capacity // LEFT_OUT)
        start = -(-excess // size) * size if excess > 0 else 0
        return token_ids[min(start, len(token_ids) - 1) :]

    def _steps(self, token_ids: SequenceOf[int], request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
        """Read a text, and let the way make drafts of what follows; one model step for each `next`."""
        yield from _read(self._sequence, token_ids)
        return (yield from self._way(self._sequence, request))


def _read(sequence: Sequence, token_ids: SequenceOf[int]) -> Generator[None, None, None]:
    """Let the sequence hold a text; what both share stays cached, and all but the end of the rest is read."""
    sequence.hold(token_ids)
    while sequence.num_waiting > PIECE:
        sequence.hold(token_ids[: sequence.num_cached + PIECE])
        sequence.extend(Draft.empty())
        yield
        sequence.hold(token_ids)

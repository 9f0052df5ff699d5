"""A draft model in a thread of its own: it guesses on while the target verifies what was guessed before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from threading import Condition, Thread, current_thread

from skipstone.errors import ConfigError
from skipstone.runtime.methods.small_model.follower import Follower
from skipstone.runtime.sampling import Picker, Picks

__all__ = ["MOST_AHEAD", "RunAhead"]

# Guesses behind the text as it was last told: twice the longest chain, and the token between two.
MOST_AHEAD = 17


class RunAhead:
    """Guesses behind a text, one after the other, by a thread that waits for nobody while the text comes as guessed.

    Invariant: `guesses` stand behind the text `told`, each guessed behind those before it. Only the thread touches the
    draft model's text. A text that comes otherwise than guessed begins a new epoch: the guesses are dropped, and so is
    that of the call which still runs, whose epoch is over. So no stale guess is ever given out.

    Made in one process; another one, forked from it, is refused, as it has no such thread.
    Sources: DSI (Timor et al., 2024) with one target; PipeInfer (Butler et al., 2024) for cancelling, and epochs.
    """

    def __init__(self, text: Follower, picker: Picker, *, most: int = MOST_AHEAD) -> None:
        """`picker` guesses a token by its place in the text alone; at most `most` guesses wait to be asked for."""
        self._text, self._picker, self._most = text, picker, most
        self._changed = Condition()
        self._told: list[int] = []
        self._guesses: list[Picks] = []
        self._epoch, self._is_full, self._is_closed = 0, False, False
        self._error: BaseException | None = None
        self._thread: Thread | None = None
        self._process_id = os.getpid()

    @property
    def num_epochs(self) -> int:
        """How often the guesses began anew, the first time too."""
        return self._epoch

    def follow(self, history: SequenceOf[int]) -> int:
        """Take over the text, which only grows; return how many guesses behind it may be asked for."""
        self.tell(history[len(self._told) :])
        if self._thread is None:
            self._thread = Thread(target=self._work, name="draft model", daemon=True)
            self._thread.start()
        return self._most

    def tell(self, token_ids: SequenceOf[int]) -> None:
        """Put tokens behind the text; guesses that they prove wrong are dropped at once."""
        self._require_own_process()
        with self._changed:
            self._told += token_ids
            guessed = [picks.token_ids[0] for picks in self._guesses[: len(token_ids)]]
            if guessed == [*token_ids]:
                del self._guesses[: len(token_ids)]
            else:
                self._epoch, self._is_full = self._epoch + 1, False
                self._guesses.clear()
            self._changed.notify_all()

    def guesses(self, picker: Picker, most: int) -> Iterator[Picks]:
        """Yield at most `most` guesses behind the text, each as soon as it is there; fewer where no more fit.

        Raises: what went wrong in the thread.
        """
        for index in range(min(most, self._most)):
            picks = self._wait_for(index)
            if picks is None:
                return
            yield picks

    def _wait_for(self, index: int) -> Picks | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or index < len(self._guesses))
            if self._error is not None:
                raise self._error
            return self._guesses[index] if index < len(self._guesses) else None

    @property
    def _is_over(self) -> bool:
        """Whether no guess comes but those that are there."""
        return self._is_full or self._is_closed or self._thread is None or self._error is not None

    def close(self) -> None:
        """End the thread, after the call of the draft model that may be running; may be called again."""
        if os.getpid() != self._process_id:
            return
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join()

    def _require_own_process(self) -> None:
        if os.getpid() != self._process_id:
            raise ConfigError(
                "this process was forked from the one whose thread runs the draft model; begin a new text"
            )

    # What follows runs in the thread.

    def _work(self) -> None:
        epoch, fits = 0, False
        try:
            while self._wait_for_work(epoch):
                with self._changed:
                    is_new, epoch, told = epoch != self._epoch, self._epoch, self._told
                    history = [*told] if is_new else told
                if is_new:
                    fits = self._text.follow(history) > 0
                self._guess(epoch, fits=fits)
        except BaseException as error:  # it is raised where the guesses are asked for
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_work(self, epoch: int) -> bool:
        """Return True once there is something to guess, False when closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed or epoch != self._epoch or (not self._is_full and len(self._guesses) < self._most)
                )
            )
            return not self._is_closed

    def _guess(self, epoch: int, *, fits: bool) -> None:
        """Make one more guess, and give it out unless its epoch is over."""
        text = self._text
        if not fits or text.sequence.draft_room < 1:
            with self._changed:
                self._is_full = epoch == self._epoch or self._is_full
                self._changed.notify_all()
            return
        picks = self._picker.pick(text.logits()[0], text.token_ids, 1)
        with self._changed:
            if epoch != self._epoch:
                return
            self._guesses.append(picks)
            self._changed.notify_all()
        text.take(picks.token_ids[0])

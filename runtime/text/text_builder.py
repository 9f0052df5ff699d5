"""The text of one generation while it grows: whole characters, cut at stop strings, and why it ended."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime.text.loop_stop import LoopStop
from skipstone.runtime.text.stop_decision import StopDecision
from skipstone.runtime.text.stop_strings import StopStrings
from skipstone.runtime.text.text_stream import TextStream
from skipstone.runtime.text.tokenizer import Tokenizer

__all__ = ["FinishReason", "TextBuilder"]

FinishReason = Literal["stop", "length", "unsure", "loop", "cancelled"]
"""`stop`: a stop token or stop string; `length`: the limit of new tokens; `unsure`: the chance set by `stop_below`;
`loop`: the same tokens over and over, as `stop_loops` says; `cancelled`: by a `Cancellation`."""


class TextBuilder:
    """The text of one generation so far: whole characters, cut at stop strings, and why it ended if it has."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt: SequenceOf[int],
        max_new_tokens: int,
        stop: SequenceOf[str] = (),
        stop_ids: Collection[int] = (),
        stop_below: float = 0.0,
        stop_loops: int = 0,
        given: SequenceOf[int] = (),
        num_hidden: int = 0,
    ) -> None:
        """`given` tokens stand behind the prompt; of what they and the text say, `num_hidden` letters are hidden."""
        after = prompt[-1] if prompt else None
        self._text = TextStream(tokenizer, after=after)
        self._text.hide(num_hidden)
        for token_id in given:
            self._text.push(token_id)
        self._tokenizer, self._unseen = tokenizer, tokenizer.special_ids | set(stop_ids)
        self._stop = StopStrings(stop, [self._name(token_id) for token_id in self._unseen] if stop else ())
        self._stop_ids = stop_ids
        self._left = max_new_tokens
        self._decision, self._loop = StopDecision(stop_below), LoopStop(stop_loops)
        self.finish_reason: FinishReason | None = None

    def take(self, token_ids: SequenceOf[int], logits: NDArray[np.float32]) -> tuple[str, int]:
        """Push the tokens that the model is sure enough of, by the logits [N, V] of each; end where it is not."""
        num_sure = self._decision.push(logits[: len(token_ids)])
        text, num_taken = self.push(token_ids[:num_sure])
        if self.finish_reason is None and num_sure < len(token_ids):
            self.finish_reason = "unsure"
            text += self._end()
        return text, num_taken

    def push(self, token_ids: SequenceOf[int]) -> tuple[str, int]:
        """Return the text that became final with these tokens, and how many of them belong to the generation.

        Sets `finish_reason` when it has ended; tokens behind its end do not belong to it.
        """
        shown = []
        for num_taken, token_id in enumerate(token_ids, start=1):
            self._left -= 1
            stopped = token_id in self._stop_ids
            if token_id in self._unseen:
                text, hit = self._stop.push("", name=self._name(token_id))
            else:
                text, hit = self._stop.push(self._text.push(token_id))
            shown.append(text)
            if hit:
                self.finish_reason = "stop"
                return "".join(shown), num_taken
            loops = self._loop.push(token_id)
            if stopped or loops or self._left == 0:
                self.finish_reason = "stop" if stopped else "loop" if loops else "length"
                return "".join([*shown, self._end()]), num_taken
        return "".join(shown), len(token_ids)

    def cancel(self) -> str:
        """End the text where it is; return what was held back of it."""
        text = self._end()
        self.finish_reason = "cancelled"
        return text

    def _name(self, token_id: int) -> str:
        return self._tokenizer.piece(token_id) or ""

    def _end(self) -> str:
        text = self._stop.push(self._text.flush())[0] + self._stop.flush()
        if self._stop.hit:
            self.finish_reason = "stop"
        return text

"""A GGUF file in llama.cpp, to be compared with: `pip install llama-cpp-python`.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence as SequenceOf
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipstone.errors import CheckpointError, ConfigError
from skipstone.evaluate.judged_model import Logits, random_tokens

__all__ = ["GgufModel", "is_gguf"]

BATCH = 512


def is_gguf(model: str) -> bool:
    """Whether an argument names a GGUF file. Raises: ConfigError when it does and llama.cpp is not installed."""
    if not model.lower().endswith(".gguf"):
        return False
    if find_spec("llama_cpp") is None:
        raise ConfigError(
            f"{model} is run by llama.cpp, and llama-cpp-python is not installed; pip install llama-cpp-python"
        )
    return True


class GgufModel:
    """A GGUF file. Invariant: `_window[:_place]` has been read."""

    def __init__(self, path: Path, *, threads: int | None) -> None:
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}; give a GGUF file or the folder of a bundle")
        self._path, self.threads = path, threads or 1
        self._room, self._every_row = BATCH, False
        self._model = model = self._open()
        self.num_bytes = path.stat().st_size
        self.bits_per_weight = 8 * self._call("llama_model_size") / self._call("llama_model_n_params")
        self.vocab_size, self.context_length = model.n_vocab(), self._call("llama_model_n_ctx_train")
        self._window: list[int] = []
        self._place = 0

    def _call(self, name: str) -> int:
        import llama_cpp

        number: int = getattr(llama_cpp, name)(self._model.model)
        return number

    def _require(self, room: int, *, every_row: bool) -> None:
        """Open the file again where the open one has no room for so many tokens, or keeps the wrong rows."""
        if room > self._room or every_row is not self._every_row:
            self._model.close()
            self._room, self._every_row = max(room, BATCH), every_row
            self._model = self._open()

    def _open(self) -> Any:
        import llama_cpp

        try:
            return llama_cpp.Llama(
                str(self._path),
                n_ctx=self._room,
                n_batch=BATCH,
                n_threads=self.threads,
                n_threads_batch=self.threads,
                logits_all=self._every_row,
                verbose=bool(os.environ.get("SKIPSTONE_LLAMA_CPP_LOG")),
            )
        except ValueError as error:
            raise CheckpointError(f"llama.cpp cannot open {self._path}: {error}; is it whole?") from error

    def text(self, token_ids: SequenceOf[int]) -> str:
        """Return what tokens say, special ones with their names."""
        said: bytes = self._model.detokenize(list(token_ids), special=True)
        return said.decode("utf-8", errors="replace")

    def begin(self, token_ids: SequenceOf[int]) -> None:
        """Forget the text, and read a window of tokens next."""
        self._require(len(token_ids), every_row=True)
        self._model.reset()
        self._window, self._place = list(token_ids), 0

    def logits(self, num_rows: int) -> Logits:
        """Return the logits [N, V] behind the next `num_rows` tokens of the window."""
        start, self._place = self._place, self._place + num_rows
        self._model.eval(self._window[start : self._place])
        rows: Logits = self._model.scores[start : self._place]
        return rows

    def fill(self, num_tokens: int, *, room: int) -> float:
        """Forget the text, read so many random tokens, and return the seconds; `room` is for tokens behind them."""
        self._require(num_tokens + room + 2, every_row=False)
        self._model.reset()
        start = time.perf_counter()
        self._model.eval(random_tokens(num_tokens, self.vocab_size))
        return time.perf_counter() - start

    def decode(self, num_tokens: int) -> float:
        """Write so many tokens behind what was read, and return the seconds."""
        start = time.perf_counter()
        for token_id in random_tokens(num_tokens, self.vocab_size):
            self._model.eval([token_id])
        return time.perf_counter() - start

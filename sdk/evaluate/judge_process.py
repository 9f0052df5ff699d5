"""The handle of a judged model's process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skipstone.devices import physical_cores
from skipstone.errors import DeviceError, SkipstoneError
from skipstone.evaluate.gguf_model import is_gguf
from skipstone.evaluate.judge import ModelFacts, Rows
from skipstone.runtime.engine import CacheName
from skipstone.runtime.generation import process_peak_bytes

__all__ = ["JudgeProcess"]

PROGRAM = "from skipstone.evaluate.judge import main; main()"


class JudgeProcess:
    """A process that holds one model open. Raises in every verb what the model raises, and DeviceError when it dies."""

    def __init__(
        self, model: str, *, device: str = "cpu", threads: int | None = None, cache: CacheName | None = None
    ) -> None:
        """`model` is the folder of a bundle or a GGUF file, opened there. Raises: ConfigError, BundleError."""
        if is_gguf(model):
            threads = threads or physical_cores()
        self.model = model
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            self._exchange({"model": model, "device": device, "threads": threads, "cache": cache})
            self.facts = ModelFacts(**self._ask("facts"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with suppress(OSError):
            self._process.communicate()

    def text(self, token_ids: SequenceOf[int]) -> str:
        """Return what tokens say, special ones with their names."""
        return str(self._ask("text", token_ids=list(token_ids)))

    def begin(self, token_ids: SequenceOf[int]) -> None:
        """Read a window of tokens next."""
        self._ask("begin", token_ids=list(token_ids))

    def rows(self, targets: SequenceOf[int], *, reference: Path | None = None, keep: Path | None = None) -> Rows:
        """Return what the model says of the next tokens, beside the rows of a reference in a file.

        As the reference it leaves its own rows in the file `keep`.
        """
        files = {"reference": reference and str(reference), "keep": keep and str(keep)}
        return Rows(**self._ask("rows", targets=list(targets), **files))

    def peak_memory(self) -> int:
        """Return the most memory in bytes that the process has held."""
        return process_peak_bytes(self._process.pid) or int(self._ask("peak_memory"))

    def fill(self, num_tokens: int, *, room: int) -> float:
        """Return the seconds that so many tokens take to read; `room` is for tokens behind them."""
        return float(self._ask("fill", num_tokens=num_tokens, room=room))

    def decode(self, num_tokens: int) -> float:
        """Return the seconds that so many tokens take to write behind what was read."""
        return float(self._ask("decode", num_tokens=num_tokens))

    def _ask(self, verb: str, **values: object) -> Any:
        return self._exchange({"verb": verb, "values": values})

    def _exchange(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise _error_kinds(SkipstoneError).get(answer["kind"], DeviceError)(answer["error"])
        return answer["result"]

    def _death(self) -> DeviceError:
        """Return what to say of a process that ended by itself: its last line, or the signal that ended it."""
        _, said = self._process.communicate()
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        code = self._process.returncode
        if code < 0:
            last = f"signal {-code}; is there enough memory?"
        return DeviceError(f"the process that ran {self.model} has ended: {last}")


def _error_kinds(kind: type[SkipstoneError]) -> dict[str, type[SkipstoneError]]:
    """Return the errors of this kind by name."""
    below = (_error_kinds(special) for special in kind.__subclasses__())
    return {kind.__name__: kind} | {name: special for kinds in below for name, special in kinds.items()}

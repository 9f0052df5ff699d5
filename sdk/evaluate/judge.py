"""The process of one judged model: requests in, one JSON line each, answers out; so its memory and threads are its own.

A model that is the reference leaves its log probabilities in a file, a few rows at a time; the others read them there.
Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.evaluate.gguf_model import is_gguf
from skipstone.evaluate.judged_model import JudgedModel
from skipstone.evaluate.log_probs import divergences, log_softmax
from skipstone.runtime.engine import CacheName

__all__ = ["ModelFacts", "Rows", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model once it is open."""

    num_bytes: int
    bits_per_weight: float
    vocab_size: int
    context_length: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a model says of some tokens, each a list over them; the last two only beside a reference.

    `nats`: minus the token's log probability. `kl`: KL(reference || model). `agrees`: both have the same top token.
    """

    nats: list[float]
    kl: list[float]
    agrees: list[bool]


class Judge:
    """Answers requests about one model."""

    def __init__(self, model: str, *, device: str, threads: int | None, cache: CacheName | None = None) -> None:
        self._model = _open(model, device=device, threads=threads, cache=cache)

    def facts(self) -> dict[str, Any]:
        """Return what is known of the model."""
        return asdict(ModelFacts(**{name: getattr(self._model, name) for name in ModelFacts.__dataclass_fields__}))

    def text(self, token_ids: list[int]) -> str:
        """Return what tokens say."""
        return self._model.text(token_ids)

    def begin(self, token_ids: list[int]) -> None:
        """Read a window of tokens next."""
        self._model.begin(token_ids)

    def rows(self, targets: list[int], reference: str | None, keep: str | None) -> dict[str, Any]:
        """Return what the model says of the next tokens, which are `targets`, beside the file of a reference.

        `keep` is the file for its own log probabilities, where it is the reference.
        """
        log_probs = log_softmax(self._model.logits(len(targets)))
        nats = -np.take_along_axis(log_probs, np.asarray(targets)[:, None], 1)[:, 0]
        if keep is not None:
            log_probs.astype(np.float32).tofile(keep)
        kl, agrees = list[float](), list[bool]()
        if reference is not None:
            expected = np.fromfile(reference, np.float32).reshape(len(targets), -1).astype(np.float64)
            kl = divergences(expected, log_probs).tolist()
            agrees = (expected.argmax(axis=1) == log_probs.argmax(axis=1)).tolist()
        return asdict(Rows(nats=nats.tolist(), kl=kl, agrees=agrees))

    def peak_memory(self) -> int:
        """Return the most memory in bytes that this process has held."""
        from skipstone.runtime.generation import peak_memory_bytes

        return peak_memory_bytes()

    def fill(self, num_tokens: int, room: int) -> float:
        """Return the seconds that so many tokens take to read; `room` is for tokens behind them."""
        return self._model.fill(num_tokens, room=room)

    def decode(self, num_tokens: int) -> float:
        """Return the seconds that so many tokens take to write."""
        return self._model.decode(num_tokens)


def _open(model: str, *, device: str, threads: int | None, cache: CacheName | None) -> JudgedModel:
    """Return the model; one that runs elsewhere must not bear the memory of what it does not need."""
    if is_gguf(model):
        if cache is not None:
            raise ConfigError(f"--cache is for bundles, and {model} runs in llama.cpp with a cache of its own")
        from skipstone.evaluate.gguf_model import GgufModel

        return GgufModel(Path(model), threads=threads)
    from skipstone.evaluate.bundle_model import BundleModel

    return BundleModel(Path(model), device=device, threads=threads, cache=cache)


def main() -> None:
    """Answer the requests on standard input until it ends; the first opens the model."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is told, and ends this process
    answers = _own_output()
    requests = (json.loads(line) for line in sys.stdin)
    try:
        judge = Judge(**next(requests))
    except SkipstoneError as error:
        _answer(answers, _failure(error))
        return
    _answer(answers, {"result": None})
    for request in requests:
        _answer(answers, _outcome(getattr(judge, request["verb"]), request["values"]))


def _own_output() -> TextIO:
    """Return standard output for the answers alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _outcome(verb: Callable[..., object], values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": verb(**values)}
    except SkipstoneError as error:
        return _failure(error)


def _failure(error: SkipstoneError) -> dict[str, Any]:
    return {"error": str(error), "kind": type(error).__name__}


def _answer(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()

"""Replay: recorded texts stand in for what the model would write, the measured cost curve for its calls.

So drafters that need only text can be judged on real text with the costs of any bundle, also one with random weights.
The seconds of drafting are measured while replaying; those of the model are looked up.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments
from skipstone.runtime.costs import MAX_ROWS, cost_curve
from skipstone.runtime.decoding import Guard, Round
from skipstone.runtime.engine import Draft, Model, SharedStores
from skipstone.runtime.methods import MethodChoice
from skipstone.runtime.methods.auto import LOOP_S
from skipstone.runtime.sampling import Sampler

__all__ = ["Recording", "ReplayResult", "read_recordings", "replay_texts"]

# A text without a prompt is its own: this share of it, and no more tokens than so many.
PROMPT_SHARE, PROMPT_TOKENS = 0.2, 512


@dataclass(frozen=True, slots=True)
class Recording:
    """A text that was written: after `prompt`, which may be empty, came `reply`."""

    prompt: str
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What one method would make of recorded texts. Times are estimates: calls by the cost curve, drafting as measured.

    `ratio` is the time of plain decoding over that of the method.
    """

    source: str
    method: str
    texts: int
    num_bytes: int
    tokens: int
    calls: int
    drafted: int
    accepted: int
    plain_s: float
    model_s: float
    draft_s: float

    @property
    def ratio(self) -> float:
        return self.plain_s / (self.model_s + self.draft_s)

    @property
    def tokens_per_call(self) -> float:
        return self.tokens / self.calls


def read_recordings(path: Path) -> list[Recording]:
    """Return the recordings in a JSON Lines file (`prompt` and `reply`), a text file, or the text files of a folder.

    Raises: ConfigError when there is none, or a line or a file cannot be read.
    """
    try:
        files = sorted(file for file in path.rglob("*.py") if file.is_file()) if path.is_dir() else [path]
        found = [recording for file in files for recording in _read(file) if recording.reply]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise ConfigError(
            f"{path} holds no text to replay; give a .jsonl with prompt and reply, a text or a folder of .py"
        )
    return found


def _read(file: Path) -> Iterator[Recording]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if file.suffix != ".jsonl":
        yield Recording("", text)
        return
    for number, line in enumerate(text.split("\n"), start=1):  # other ends of lines may stand in a string
        if not line.strip():
            continue
        try:
            recording = _recording(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}, line {number}: an object with prompt and reply is wanted ({error})") from error
        yield recording


def _recording(record: Any) -> Recording:
    prompt, reply = record["prompt"], record["reply"]
    if not (isinstance(prompt, str) and isinstance(reply, str)):
        raise TypeError("both must be strings")
    (prompt + reply).encode()  # half a character is a ValueError
    return Recording(prompt, reply)


@checks_arguments
def replay_texts(
    model: Model,
    recordings: Sequence[Recording],
    method: str,
    *,
    source: str = "",
    on_progress: Callable[[int], None] = lambda count: None,
) -> ReplayResult:
    """Return what `method` would make of the recordings, one after the other, remembering as it would.

    `on_progress` gets the bytes of each recording that is done. Raises: ConfigError for a method that needs more than
    text, and for recordings of less than two tokens.
    """
    alone = copy.copy(model)
    alone.shared = SharedStores()
    alone.shared.get("cost curve", lambda: cost_curve(model))
    parsed = MethodChoice.parse(method)
    total = _Tally()
    for recording in recordings:
        for prompt, reply in _pieces(alone, recording):
            _replay_one(alone, parsed, prompt, reply, total)
        on_progress(len(recording.reply.encode()))
    if not total.calls:
        raise ConfigError("the recordings hold no text to replay; give some of at least two tokens")
    return ReplayResult(
        source=source,
        method=method,
        texts=len(recordings),
        num_bytes=sum(len(recording.reply.encode()) for recording in recordings),
        **{name: getattr(total, name) for name in _Tally.__dataclass_fields__},
    )


@dataclass(slots=True)
class _Tally:
    tokens: int = 0
    calls: int = 0
    drafted: int = 0
    accepted: int = 0
    plain_s: float = 0.0
    model_s: float = 0.0
    draft_s: float = 0.0


def _pieces(model: Model, recording: Recording) -> Iterator[tuple[list[int], list[int]]]:
    """Yield prompts and replies that fit the model's context; of a long text one piece after the other."""
    prompt = model.tokenizer.encode(recording.prompt, add_special_tokens=False)
    reply = model.tokenizer.encode(recording.reply, add_special_tokens=False)
    most = model.manifest.context_length - MAX_ROWS
    if prompt:
        prompt = prompt[-(most * 3 // 4) :]
        yield prompt, reply[: most - len(prompt)]
        return
    for start in range(0, len(reply), most):
        piece = reply[start : start + most]
        cut = max(1, min(int(len(piece) * PROMPT_SHARE), PROMPT_TOKENS))
        if len(piece) > cut:
            yield piece[:cut], piece[cut:]


def _replay_one(model: Model, method: MethodChoice, prompt: list[int], reply: list[int], total: _Tally) -> None:
    """Decode one text as `decode` does, with the recorded tokens in the place of the model's."""
    sequence = model.new_sequence()
    sequence.append(prompt)
    drafter = method.open(model, sequence, Sampler(greedy=True), text_only=True)
    guard, curve = Guard(drafter, sequence), cost_curve(model)
    no_logits = np.zeros((0, 0), np.float32)
    position, costs = 0, curve.costs(len(prompt), max_rows=MAX_ROWS)
    while position < len(reply):
        if total.calls % 32 == 0:
            costs = curve.costs(len(sequence.token_ids), max_rows=2 * MAX_ROWS)
        start = time.perf_counter()
        draft = guard.propose(min(len(reply) - position, MAX_ROWS) - 1) if position else Draft.empty()
        draft_s = time.perf_counter() - start
        rows = draft.path(reply[position:])
        emitted = reply[position : position + len(rows)]
        pending_id = sequence.token_ids[-1]
        sequence.append(emitted)
        start = time.perf_counter()
        call_s = costs[1 + len(draft)] if position else len(prompt) * costs[MAX_ROWS] / MAX_ROWS
        guard.observe(Round(draft, pending_id, emitted, rows, no_logits, call_s))
        draft_s += time.perf_counter() - start
        position += len(emitted)
        total.tokens += len(emitted)
        total.calls += 1
        total.drafted += len(draft)
        total.accepted += len(rows) - 1
        total.plain_s += len(emitted) * (costs[1] + LOOP_S)
        total.model_s += costs[1 + len(draft)] + LOOP_S
        total.draft_s += draft_s
    guard.finish()

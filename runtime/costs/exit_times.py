"""What exits cost here: the call up to each, and the later one that catches up; measured once, then kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from skipstone.runtime.bundle import keep_json
from skipstone.runtime.costs.profile import profile_path
from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages
from skipstone.runtime.sampling import gap, saturation

__all__ = ["MOST_BEHIND", "ExitTimes", "exit_times", "tokens_per_ms"]

# So many tokens may wait for the later stages: past that, a row more costs as much as in a call of its own.
MOST_BEHIND = 16
ROWS = (1, 4, MOST_BEHIND + 1)
ASKED = 4  # tokens of a round in which the hidden states are asked
ROUNDS = 5
TOKEN_ID = 0


@dataclass(frozen=True, slots=True)
class ExitTimes:
    """Milliseconds: of a full call for one token; by exit, of the call up to it, and of what follows for ROWS rows.

    `exit_ms` are the stages and the head, which every token pays whose logits are asked. `states_ms` are the stages
    without the head, and the head for the token that leaves: where the hidden states are asked, so at all exits after
    two stages or more.
    """

    full_ms: float
    exit_ms: Mapping[int, float]
    late_ms: Mapping[int, SequenceOf[float]]
    states_ms: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def rate(self, num_layers: int, share: float, *, reads_states: bool = False) -> float:
        """Return the expected tokens per millisecond of an exit at which this `share` of tokens leaves.

        `reads_states`: the exit is asked by its hidden states, not by its logits.
        """
        late_ms = np.interp(np.arange(1, MOST_BEHIND + 2), ROWS, self.late_ms[num_layers]).tolist()
        if not reads_states:
            return tokens_per_ms(share, self.exit_ms[num_layers], late_ms)
        states_ms, head_ms = self.states_ms[num_layers]
        return tokens_per_ms(share, states_ms + head_ms, late_ms, stay_ms=states_ms)


def tokens_per_ms(share: float, leave_ms: float, late_ms: SequenceOf[float], *, stay_ms: float | None = None) -> float:
    """Return the expected tokens per millisecond when each token leaves with the chance `share`.

    `leave_ms` is the call up to the exit for a token that leaves, `stay_ms` for one that does not; None is the same.
    `late_ms[n]` is the call that catches up after n tokens have left; the last of them comes whether or not a token
    would leave. A round ends with such a call: n tokens leave before it with the chance share**n * (1 - share), as many
    as may with the rest.
    """
    last_ms = leave_ms if stay_ms is None else stay_ms
    expected_tokens = expected_ms = 0.0
    most = len(late_ms) - 1
    for num_left, late in enumerate(late_ms):
        chance = share**num_left * (1.0 if num_left == most else 1.0 - share)
        expected_tokens += chance * (num_left + 1)
        expected_ms += chance * (num_left * leave_ms + last_ms + late)
    return expected_tokens / expected_ms


def exit_times(model: Model) -> ExitTimes:
    """Return what the exits of this model cost here; measured when no file knows it: some 800 calls."""
    return model.shared.get("exit times", lambda: _load(model) or _measured(model))


def _path(model: Model) -> Path | None:
    costs = profile_path(model)
    return None if costs is None else costs.with_name(costs.name.replace("costs-", "exit-times-"))


def _load(model: Model) -> ExitTimes | None:
    path = _path(model)
    if path is None:
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        exit_ms = {int(key): float(value) for key, value in data["exit_ms"].items()}
        late_ms = {int(key): [*map(float, values)] for key, values in data["late_ms"].items()}
        states_ms = {int(key): (float(stages), float(head)) for key, (stages, head) in data["states_ms"].items()}
        return ExitTimes(float(data["full_ms"]), exit_ms, late_ms, states_ms)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, damaged or of an earlier version, so measured


def _measured(model: Model) -> ExitTimes:
    times, path = _measure(model), _path(model)
    if path is not None:
        keep_json(asdict(times), path)  # where it cannot be kept it is measured again
    return times


def _measure(model: Model) -> ExitTimes:
    """Time the calls of decoding themselves, the first round of each shape left out.

    The least of each counts, since other programs only make a call slower.
    """
    sequence = model.new_sequence(context_length=min(model.manifest.context_length, 4 * MOST_BEHIND))
    full: list[float] = []
    exit_ms: dict[int, float] = {}
    late_ms: dict[int, list[float]] = {}
    states_ms: dict[int, tuple[float, float]] = {}
    for num_layers, num_stages in exit_stages(model).items():
        peeks: list[float] = []
        late_ms[num_layers] = []
        for rows in ROWS:
            late = []
            for turn in range(1 + ROUNDS):
                full.append(_restart(sequence))
                spent, caught_up = _round(sequence, num_stages, rows)
                if turn:
                    peeks += spent
                    late.append(caught_up)
            late_ms[num_layers].append(min(late))
        exit_ms[num_layers] = min(peeks)
        if num_stages > 1:
            states_ms[num_layers] = _states_ms(sequence, num_stages)
    return ExitTimes(min(full), exit_ms, late_ms, states_ms)


def _states_ms(sequence: Sequence, num_stages: int) -> tuple[float, float]:
    """Return the milliseconds of the stages up to an exit, whose hidden states are asked, and of the head behind."""
    stages, heads = [], []
    for turn in range(1 + ROUNDS):
        _restart(sequence)
        for row in range(ASKED):
            start = perf_counter()
            states = sequence.peek_hidden([TOKEN_ID] * (row + 1), num_stages=num_stages)
            saturation(states[None, 0], states[None, 1])
            asked = perf_counter()
            sequence.peek_logits()
            if turn:
                stages.append((asked - start) * 1e3)
                heads.append((perf_counter() - asked) * 1e3)
            sequence.append([TOKEN_ID])
    return min(stages), min(heads)


def _restart(sequence: Sequence) -> float:
    """Make the text two cached tokens and a pending one; return the milliseconds of the last one's full call."""
    sequence.rollback(0)
    sequence.append([TOKEN_ID])
    sequence.extend(Draft.empty())
    sequence.append([TOKEN_ID])
    start = perf_counter()
    sequence.extend(Draft.empty())
    spent = perf_counter() - start
    sequence.append([TOKEN_ID])
    return spent * 1e3


def _round(sequence: Sequence, num_stages: int, rows: int) -> tuple[list[float], float]:
    """Let tokens leave at an exit until `rows` wait, then catch up; return the milliseconds of each call."""
    spent = []
    for row in range(rows):
        start = perf_counter()
        gap(sequence.peek([TOKEN_ID] * (row + 1), num_stages=num_stages)[None])
        spent.append((perf_counter() - start) * 1e3)
        if row < rows - 1:
            sequence.append([TOKEN_ID])
    start = perf_counter()
    sequence.extend(Draft.empty())
    return spent, (perf_counter() - start) * 1e3

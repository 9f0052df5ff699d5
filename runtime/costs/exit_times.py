"""What exits cost here: the call up to each, and the later one that catches up; measured once, then kept in a file."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from skipstone.runtime.costs.profile import device_note
from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages
from skipstone.runtime.sampling import gap, saturation

__all__ = ["MOST_BEHIND", "ExitTimes", "exit_times", "tokens_per_s"]

# So many tokens may wait for the later stages: past that, a row more costs as much as in a call of its own.
MOST_BEHIND = 16
ROWS = (1, 4, MOST_BEHIND + 1)
ASKED = 4  # tokens of a round in which the hidden states are asked
ROUNDS = 5
TOKEN_ID = 0


@dataclass(frozen=True, slots=True)
class ExitTimes:
    """Seconds: of a full call for one token; by exit, of the call up to it, and of what follows for ROWS rows.

    `exit_s` are the stages and the head, which every token pays whose logits are asked. `states_s` are the stages
    without the head, and the head for the token that leaves: where the hidden states are asked, so at all exits after
    two stages or more.
    """

    full_s: float
    exit_s: Mapping[int, float]
    late_s: Mapping[int, tuple[float, ...]]
    states_s: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def rate(self, num_layers: int, share: float, *, reads_states: bool = False) -> float:
        """Return the expected tokens per second of an exit at which this `share` of tokens leaves.

        `reads_states`: the exit is asked by its hidden states, not by its logits.
        """
        late_s = np.interp(np.arange(1, MOST_BEHIND + 2), ROWS, self.late_s[num_layers]).tolist()
        if not reads_states:
            return tokens_per_s(share, self.exit_s[num_layers], late_s)
        states_s, head_s = self.states_s[num_layers]
        return tokens_per_s(share, states_s + head_s, late_s, stay_s=states_s)


def tokens_per_s(share: float, leave_s: float, late_s: SequenceOf[float], *, stay_s: float | None = None) -> float:
    """Return the expected tokens per second when each token leaves with the chance `share`.

    `leave_s` is the call up to the exit for a token that leaves, `stay_s` for one that does not; None is the same.
    `late_s[n]` is the call that catches up after n tokens have left; the last of them comes whether or not a token
    would leave. A round ends with such a call: n tokens leave before it with the chance share**n * (1 - share), as many
    as may with the rest.
    """
    last_s = leave_s if stay_s is None else stay_s
    expected_tokens = expected_s = 0.0
    most = len(late_s) - 1
    for num_left, late in enumerate(late_s):
        chance = share**num_left * (1.0 if num_left == most else 1.0 - share)
        expected_tokens += chance * (num_left + 1)
        expected_s += chance * (num_left * leave_s + last_s + late)
    return expected_tokens / expected_s


def exit_times(model: Model) -> ExitTimes:
    """Return what the exits of this model cost here; measured when no file knows it: some 800 calls."""
    note = device_note(ExitTimes, model, name="exit-times", what="times of exits")
    return model.shared.get("exit times", lambda: note.find_or_make(model.profiles, lambda: _measure(model)))


def _measure(model: Model) -> ExitTimes:
    """Time the calls of decoding themselves, the first round of each shape left out.

    The least of each counts, since other programs only make a call slower.
    """
    sequence = model.new_sequence(context_length=min(model.manifest.context_length, 4 * MOST_BEHIND))
    full: list[float] = []
    exit_s: dict[int, float] = {}
    late_s: dict[int, tuple[float, ...]] = {}
    states_s: dict[int, tuple[float, float]] = {}
    for num_layers, num_stages in exit_stages(model).items():
        peeks: list[float] = []
        late_rows: list[float] = []
        for rows in ROWS:
            late = []
            for turn in range(1 + ROUNDS):
                full.append(_restart(sequence))
                spent, caught_up = _round(sequence, num_stages, rows)
                if turn:
                    peeks += spent
                    late.append(caught_up)
            late_rows.append(min(late))
        late_s[num_layers], exit_s[num_layers] = tuple(late_rows), min(peeks)
        if num_stages > 1:
            states_s[num_layers] = _states_s(sequence, num_stages)
    return ExitTimes(min(full), exit_s, late_s, states_s)


def _states_s(sequence: Sequence, num_stages: int) -> tuple[float, float]:
    """Return the seconds of the stages up to an exit, whose hidden states are asked, and of the head behind."""
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
                stages.append(asked - start)
                heads.append(perf_counter() - asked)
            sequence.append([TOKEN_ID])
    return min(stages), min(heads)


def _restart(sequence: Sequence) -> float:
    """Make the text two cached tokens and a pending one; return the seconds of the last one's full call."""
    sequence.rollback(0)
    sequence.append([TOKEN_ID])
    sequence.extend(Draft.empty())
    sequence.append([TOKEN_ID])
    start = perf_counter()
    sequence.extend(Draft.empty())
    spent = perf_counter() - start
    sequence.append([TOKEN_ID])
    return spent


def _round(sequence: Sequence, num_stages: int, rows: int) -> tuple[list[float], float]:
    """Let tokens leave at an exit until `rows` wait, then catch up; return the seconds of each call."""
    spent = []
    for row in range(rows):
        start = perf_counter()
        gap(sequence.peek([TOKEN_ID] * (row + 1), num_stages=num_stages)[None])
        spent.append(perf_counter() - start)
        if row < rows - 1:
            sequence.append([TOKEN_ID])
    start = perf_counter()
    sequence.extend(Draft.empty())
    return spent, perf_counter() - start

"""What stages and exits cost here: each stage alone, the call up to each exit, and the later one that catches up."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import numpy as np

from skipstone.errors import ConfigError
from skipstone.runtime.costs.rates import tokens_per_s
from skipstone.runtime.engine import Draft, Feed, Model, Part, Sequence, Workspace, device_note, exit_stages
from skipstone.runtime.sampling import gap, saturation

__all__ = ["LATE_ROWS", "LONGEST", "MOST_BEHIND", "ROWS", "ExitTimes", "StageTimes", "exit_times", "stage_times"]

LONGEST = 8  # guesses of a draft
ROWS = (1, 2, 4, 1 + LONGEST)
NUM_CACHED = 16
# So many tokens may wait for the later stages: past that, a row more costs as much as in a call of its own.
MOST_BEHIND = 16
LATE_ROWS = (1, 4, MOST_BEHIND + 1)
ASKED = 4  # tokens of a round in which the hidden states are asked
ROUNDS = 5  # and one before them that does not count: the first call of a shape takes longer
TOKEN_ID = 0
NUM_RESTARTED = 2  # cached tokens before each round


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds by stage, and of the head, of calls of each of ROWS."""

    stage_s: SequenceOf[SequenceOf[float]]
    head_s: SequenceOf[float]

    @property
    def plain_s(self) -> float:
        """Seconds of a step of plain decoding: all stages and the head, one row."""
        return sum(seconds[0] for seconds in self.stage_s) + self.head_s[0]

    def guess_cost(self, kept: SequenceOf[int]) -> float:
        """Return the cost of a guess with these stages, as a share of a plain step."""
        return (sum(self.stage_s[number][0] for number in kept) + self.head_s[0]) / self.plain_s

    def verify_costs(self, num_first: int) -> list[float]:
        """Return the costs of calls that verify 1 to LONGEST guesses, of which the first stages saw all but the last.

        These run for one row only, and the others for all; shares of a plain step.
        """
        first_s = sum(seconds[0] for seconds in self.stage_s[:num_first])
        rest = np.sum([*self.stage_s[num_first:], self.head_s], axis=0)
        later_s = np.interp(range(2, 2 + LONGEST), ROWS, rest)
        return [(first_s + float(later)) / self.plain_s for later in later_s]


def stage_times(model: Model) -> StageTimes:
    """Measure a model of several stages: some 24 calls of each.

    The stages of a round run one after the other, as in decoding, so that none finds its weights in a small cache. The
    least of each counts, since other programs only make a call slower.
    """
    capacity = min(model.manifest.context_length, NUM_CACHED + ROWS[-1])
    workspace = model.new_workspace(context_length=capacity)
    parts = [Part((number,), head=False) for number in range(len(model.manifest.stages))] + [Part(())]
    with model.sessions.crew.fixed():
        seconds = np.array([_least_s(workspace, parts, rows, capacity - rows) for rows in ROWS]).T
    *stage_s, head_s = seconds.tolist()
    return StageTimes(stage_s, head_s)


def _least_s(workspace: Workspace, parts: SequenceOf[Part], num_rows: int, num_cached: int) -> list[float]:
    token_ids, length = [0] * num_rows, min(num_cached, NUM_CACHED)
    spent = np.full((1 + ROUNDS, len(parts)), np.inf)
    for turn in range(1 + ROUNDS):
        for place, part in enumerate(parts):
            feed = Feed.of(token_ids, rows=range(num_rows if part.head else 0), length=length)
            call = workspace.call(feed, part)
            start = perf_counter()
            call.run(feed)
            spent[turn, place] = perf_counter() - start
    return [float(least) for least in spent[1:].min(axis=0)]


@dataclass(frozen=True, slots=True)
class ExitTimes:
    """Seconds: of a full call for one token; by exit, of the call up to it, and of what follows for LATE_ROWS rows.

    `exit_s` are the stages and the head, which every token pays whose logits are asked. `states_s` are the stages
    without the head, and the head for the token that leaves: where the hidden states are asked, so at all exits after
    two stages or more.
    """

    full_s: float
    exit_s: Mapping[int, float]
    late_s: Mapping[int, tuple[float, ...]]
    states_s: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        late = [seconds for times in self.late_s.values() for seconds in times]
        states = [seconds for times in self.states_s.values() for seconds in times]
        if not all(0 < seconds < inf for seconds in (self.full_s, *self.exit_s.values(), *late, *states)):
            raise ConfigError("the times of exits are all above 0")
        if self.exit_s.keys() != self.late_s.keys() or any(
            len(times) != len(LATE_ROWS) for times in self.late_s.values()
        ):
            raise ConfigError(f"the times of exits are {len(LATE_ROWS)} behind each")

    def rate(self, num_layers: int, share: float, *, reads_states: bool = False) -> float:
        """Return the expected tokens per second of an exit at which this `share` of tokens leaves.

        `reads_states`: the exit is asked by its hidden states, not by its logits.
        """
        late_s = np.interp(np.arange(1, MOST_BEHIND + 2), LATE_ROWS, self.late_s[num_layers]).tolist()
        if not reads_states:
            return tokens_per_s(share, self.exit_s[num_layers], late_s)
        states_s, head_s = self.states_s[num_layers]
        return tokens_per_s(share, states_s + head_s, late_s, stay_s=states_s)


def exit_times(model: Model, *, num_rounds: int = ROUNDS) -> ExitTimes:
    """Return what the exits of this model cost here; measured when no file knows it: some 800 calls."""
    note = device_note(ExitTimes, model.sessions, name="exit-times", what="times of exits")
    return model.shared.get(
        "exit times", lambda: note.find_or_make(model.profiles, lambda: _measure(model, num_rounds))
    )


def _measure(model: Model, num_rounds: int) -> ExitTimes:
    """Time the calls of decoding themselves, the first round of each shape left out.

    The least of each counts, since other programs only make a call slower. Rows that the context has no room for behind
    two cached tokens never come together: those that it has stand for them.
    """
    with model.sessions.crew.fixed():
        return _measured(model, num_rounds)


def _measured(model: Model, num_rounds: int) -> ExitTimes:
    sequence = model.new_sequence(context_length=min(model.manifest.context_length, 4 * MOST_BEHIND))
    most = max(1, sequence.cache.capacity - NUM_RESTARTED)
    full: list[float] = []
    exit_s: dict[int, float] = {}
    late_s: dict[int, tuple[float, ...]] = {}
    states_s: dict[int, tuple[float, float]] = {}
    for num_layers, num_stages in exit_stages(model).items():
        peeks: list[float] = []
        late_rows: list[float] = []
        for rows in LATE_ROWS:
            late = []
            for turn in range(1 + num_rounds):
                full.append(_restart(sequence))
                spent, caught_up = _round(sequence, num_stages, min(rows, most))
                if turn:
                    peeks += spent
                    late.append(caught_up)
            late_rows.append(min(late))
        late_s[num_layers], exit_s[num_layers] = tuple(late_rows), min(peeks)
        if num_stages > 1:
            states_s[num_layers] = _states_s(sequence, num_stages, min(ASKED, most), num_rounds)
    return ExitTimes(min(full), exit_s, late_s, states_s)


def _states_s(sequence: Sequence, num_stages: int, num_rows: int, num_rounds: int) -> tuple[float, float]:
    """Return the seconds of the stages up to an exit, whose hidden states are asked, and of the head behind."""
    stages, heads = [], []
    for turn in range(1 + num_rounds):
        _restart(sequence)
        for row in range(num_rows):
            start = perf_counter()
            states = sequence.peek_hidden([TOKEN_ID] * (row + 1), num_stages=num_stages)
            saturation(states[None, 0], states[None, 1])
            asked = perf_counter()
            sequence.peek_logits()
            if turn:
                stages.append(asked - start)
                heads.append(perf_counter() - asked)
            if row < num_rows - 1:
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

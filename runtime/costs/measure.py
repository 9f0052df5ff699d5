"""What calls of a model cost on this device: measured once, then read from a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from skipstone.devices import Capability
from skipstone.runtime.bundle import Note
from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.engine import Call, Feed, Model, device_note

__all__ = ["MAX_ROWS", "ROUGH_ROW", "cost_curve", "costs_note", "known_curve", "measure_costs", "rough_curve"]

# Longer drafts gain little, as each row has its price, and take longer to make.
MAX_ROWS = 16
ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
# What a row more takes of a plain step, where it was not measured: between what large and small models take.
ROUGH_ROW = 0.2
CONTEXTS, MAX_CONTEXT = (64, 512), 2048
AGAIN = 4


def measure_costs(
    model: Model,
    *,
    budget_s: float = 0.8,
    min_sweeps: int = 2,
    max_sweeps: int = 12,
    threads: int | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> CostCurve:
    """Return the cost curve of `model`: the shortest times of some sweeps through all rows and contexts.

    A sweep visits every cell once, so that a busy moment of the machine touches all alike; the shortest time is the one
    that others on the machine disturbed least. The cache holds zeros, written here: memory that never was costs less to
    read. So no more of it is measured than the memory allows. It holds for so
    many `threads`, by default all of the device. `on_progress` gets the share that is done, 0..1.
    Times that no machine has are measured again, in up to `AGAIN` sweeps of their own.
    Cost: `budget_s` at most, more for large models.
    """
    with model.sessions.crew.fixed(threads):
        return _measured(model, budget_s, min_sweeps, max_sweeps, on_progress)


def _measured(
    model: Model, budget_s: float, min_sweeps: int, max_sweeps: int, on_progress: Callable[[float], None]
) -> CostCurve:
    capacity = model.manifest.context_length
    several = Capability.SEVERAL_ROWS in model.device.capabilities
    rows = tuple(count for count in ROWS if count <= (capacity if several else 1))
    last = min(capacity - rows[-1], MAX_CONTEXT, max(1, model.room().num_tokens - rows[-1]))
    contexts = (*(context for context in CONTEXTS if context < last), last)
    workspace = model.new_workspace(context_length=last + rows[-1])
    for buffer in workspace.cache:
        buffer.write(0)
    calls = {count: workspace.call(_feed(count, 0)) for count in rows}
    for count in rows:
        _time_s(calls[count], count, contexts[0])
    times: dict[tuple[int, int], list[float]] = {(context, count): [] for context in contexts for count in rows}
    start, sweeps = time.perf_counter(), 0
    while sweeps < min_sweeps or (sweeps < max_sweeps and time.perf_counter() - start < budget_s):
        for context, count in times:
            workspace.cache.turn_to([context], count)  # a text comes there row by row, and pays for this once in many
            times[context, count].append(_time_s(calls[count], count, context))
        sweeps += 1
        spent = max(sweeps / max_sweeps, (time.perf_counter() - start) / budget_s)
        on_progress(min(1.0, sweeps / min_sweeps, spent))
    curve = _curve(rows, contexts, times)
    for _ in range(AGAIN):
        for context, count in ((contexts[c], rows[r]) for c, r in curve.doubtful):
            workspace.cache.turn_to([context], count)
            times[context, count] = [_time_s(calls[count], count, context) for _ in range(AGAIN)]
        curve = _curve(rows, contexts, times)
    return curve


def _curve(
    rows: tuple[int, ...], contexts: tuple[int, ...], times: Mapping[tuple[int, int], Sequence[float]]
) -> CostCurve:
    """Return the shortest times by context and rows, and how far the usual ones are above them."""
    seconds = tuple(tuple(min(times[context, count]) for count in rows) for context in contexts)
    usual = tuple(tuple(median(times[context, count]) for count in rows) for context in contexts)
    spread = tuple(
        tuple(time / least - 1 for time, least in zip(*lines, strict=True))
        for lines in zip(usual, seconds, strict=True)
    )
    return CostCurve(rows=rows, contexts=contexts, seconds=seconds, spread=spread)


def _time_s(call: Call, num_rows: int, context: int) -> float:
    feed = _feed(num_rows, context)
    start = time.perf_counter()
    call.run(feed)
    return time.perf_counter() - start


def _feed(num_rows: int, context: int) -> Feed:
    return Feed.of([0] * num_rows, rows=range(num_rows), length=context, alone=True)


def cost_curve(model: Model, *, measure: Callable[[Model], CostCurve] = measure_costs) -> CostCurve:
    """Return what calls of this model cost here; measured when no file knows it, which takes about a second.

    A curve that was disturbed is not kept.
    """

    def find() -> CostCurve:
        note = costs_note(model)
        return note.find_or_make(model.profiles, lambda: measure(model), is_kept=lambda curve: curve.is_sound)

    return model.shared.get("cost curve", find)


def known_curve(model: Model) -> CostCurve | None:
    """Return the cost curve of this model where it was measured before, None else.

    On a busy machine that is the curve for the threads that calls take now; where it is not known, that for all.
    """
    threads = model.sessions.crew.threads
    if threads < model.device.threads:
        note = costs_note(model, threads=threads)
        if fewer := model.shared.get(f"kept cost curve of {threads} threads", lambda: note.find(model.profiles)):
            return fewer
    curve: CostCurve | None = model.shared.find("cost curve")
    return curve or model.shared.get("kept cost curve", lambda: costs_note(model).find(model.profiles))


def rough_curve(step_s: float) -> CostCurve:
    """Return a curve for a plain step of so many seconds, for rows that nobody has timed."""
    return CostCurve(rows=(1, MAX_ROWS), contexts=(1,), seconds=((step_s, step_s * (1 + ROUGH_ROW * (MAX_ROWS - 1))),))


def costs_note(model: Model, *, threads: int | None = None) -> Note[CostCurve]:
    """Return the note of a model's cost curve on its device, by default on all of its threads."""
    return device_note(CostCurve, model.sessions, name="row-costs", what="cost curve", threads=threads)

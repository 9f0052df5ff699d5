"""A recipe that keeps a budget: which matrix gets how many bits, in which blocks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.calibrate.budget import Budget
from skipstone.calibrate.layer_graphs import LayerGraphs
from skipstone.calibrate.options import MENU, BlankRounder, Sensitive, StoredOption
from skipstone.calibrate.sensitivity import measure_sensitivity
from skipstone.calibrate.step_times import StepTimes, step_ms
from skipstone.calibrate.work_folder import WorkFolder
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.quant import Option, Recipe, TensorRecipe, allot

__all__ = ["fit_recipe"]

Progress: TypeAlias = Callable[[float], None]
# What the manifest says of a matrix, and alignment.
_SPARE_BYTES: Final = 256


def fit_recipe(
    plan: ExportPlan,
    budget: Budget,
    token_ids: NDArray[np.int64] | None = None,
    *,
    folder: WorkFolder | None = None,
    on_progress: Progress = lambda share: None,
) -> Recipe:
    """Return a recipe whose bundle keeps a budget, with the least loss that is seen on windows of tokens [B, T].

    What an interrupted run has measured is taken from `folder`, which is for this plan and these tokens, where there is
    one. Without tokens the loss is the error of rounding, by simple rules for which matrices matter more.
    Raises: ConfigError for a budget below the least that is possible.
    """
    if any(rule.outliers for _, rule in plan.recipe.rules):
        raise ConfigError(f"--budget {budget} does not choose outliers; leave it, or those of the recipe, out")
    rehearsal = _Rehearsal.of(plan, measures=token_ids is None, times=budget.unit == "ms")
    if not rehearsal.shapes:
        raise ConfigError(f"--budget {budget}: this export rounds no matrix, so there is no choice; leave it out")
    found = rehearsal.guesses
    if token_ids is not None:
        with tempfile.TemporaryDirectory() as name:
            graphs, work = LayerGraphs(plan, open_device(), Path(name)), folder or WorkFolder(Path(name), b"work")
            found = measure_sensitivity(graphs, token_ids, rehearsal.num_bytes.__contains__, work, on_progress)
    costs = _COSTS[budget.unit](plan, rehearsal, found)
    # Two bits that no text has judged are for those who have no more.
    rules = (None if token_ids is not None else _choose(found, costs, budget, least_bits=4)) or _choose(
        found, costs, budget
    )
    if rules is None:
        least = costs.rest + sum(min(costs.of(name, option) for option in found[name].options) for name in found)
        raise ConfigError(
            f"--budget {budget} is below the least that this model takes, {least:.3g}{budget.unit}: give more"
        )
    methods = {name: plan.recipe.for_tensor(name).method for name in rules}
    chosen = ((name, replace(rule, method=methods[name])) for name, rule in rules.items())
    return replace(plan.recipe, name=str(budget), rules=(*plan.recipe.rules, *chosen))


def _choose(
    found: Mapping[str, Sensitive], costs: _Costs, budget: Budget, *, least_bits: int = 2
) -> dict[str, TensorRecipe] | None:
    """Return the rule of each matrix, none of fewer bits; None where the budget cannot be kept."""
    options = {
        name: [option for option in matrix.options if option.rule.bits >= least_bits] for name, matrix in found.items()
    }
    menus = [
        [Option(costs.of(name, option), found[name].kl * option.error) for option in options[name]] for name in found
    ]
    chosen = allot(menus, budget.amount - costs.rest)
    if chosen is None:
        return None
    return {name: options[name][number].rule for name, number in zip(found, chosen, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rehearsal:
    """A bundle as a plan's recipe has it, its weights blank: its bytes, those of each matrix, and a step's time."""

    total_bytes: int
    num_bytes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, int]]
    guesses: Mapping[str, Sensitive]
    step_ms: float

    @classmethod
    def of(cls, plan: ExportPlan, *, measures: bool, times: bool) -> _Rehearsal:
        rounder = BlankRounder(plan.architecture.dimensions.num_layers if measures else None)
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            replace(plan, rounder=rounder).write(bundle)
            return cls(
                total_bytes=sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()),
                num_bytes=rounder.num_bytes,
                shapes=rounder.shapes,
                guesses=rounder.guesses,
                step_ms=step_ms(bundle) if times else 0.0,
            )


class _Costs(Protocol):
    """What an option costs in the budget's unit; `rest` is what all beside the matrices costs."""

    rest: float

    def __init__(self, plan: ExportPlan, rehearsal: _Rehearsal, found: Mapping[str, Sensitive]) -> None: ...

    def of(self, name: str, option: StoredOption) -> float: ...


class _Megabytes:
    """10^6 bytes of the bundle."""

    def __init__(self, plan: ExportPlan, rehearsal: _Rehearsal, found: Mapping[str, Sensitive]) -> None:
        rest = rehearsal.total_bytes - sum(rehearsal.num_bytes[name] for name in found)
        self.rest = (rest + _SPARE_BYTES * (len(found) + 16)) / 1e6

    def of(self, name: str, option: StoredOption) -> float:
        return option.num_bytes / 1e6


class _Bits:
    """Bits for each weight of the matrices."""

    def __init__(self, plan: ExportPlan, rehearsal: _Rehearsal, found: Mapping[str, Sensitive]) -> None:
        self.rest, self._num_weights = 0.0, sum(np.prod(rehearsal.shapes[name]) for name in found)

    def of(self, name: str, option: StoredOption) -> float:
        return float(8 * option.num_bytes / self._num_weights)


class _Milliseconds:
    """Milliseconds of a step of one token, on this machine."""

    def __init__(self, plan: ExportPlan, rehearsal: _Rehearsal, found: Mapping[str, Sensitive]) -> None:
        self._times, self._shapes = StepTimes.measure(MENU), rehearsal.shapes
        rules = {name: plan.recipe.for_tensor(name) for name in found}
        known = sum(self._times.ms(rule, self._shapes[name]) for name, rule in rules.items())
        self.rest = max(0.0, rehearsal.step_ms - known)

    def of(self, name: str, option: StoredOption) -> float:
        return self._times.ms(option.rule, self._shapes[name])


_COSTS: Final[Mapping[str, type[_Costs]]] = {"MB": _Megabytes, "bits": _Bits, "ms": _Milliseconds}

"""An export with a calibration before it: from the text to a plan whose matrices are solved, and a line on quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Self

from skipstone.calibrate.budget import Budget
from skipstone.calibrate.calibration import solve
from skipstone.calibrate.documents import Documents
from skipstone.calibrate.fit import fit_recipe
from skipstone.calibrate.quality import HeldBack
from skipstone.calibrate.threads import one_blas_thread
from skipstone.calibrate.windows import Windows
from skipstone.calibrate.work_folder import WorkFolder, chained, run_key
from skipstone.errors import ConfigError
from skipstone.exporters import ExportPlan
from skipstone.exporters.optimum import WrappedPlan
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Check

__all__ = ["Calibration", "within_budget"]


_SHARE_OF_FIT: Final = 0.3  # of the time


class Calibration:
    """Calibrates a plan, and its draft model's, on one text; a context that ends without an error forgets its work.

    Raises: ConfigError, before any work, for a plan that rounds nothing, and for a text that does not fit.
    """

    def __init__(
        self, plan: ExportPlan | WrappedPlan, documents: Documents, *, budget: Budget | None = None, seed: int = 0
    ) -> None:
        """With a `budget` the recipe is chosen first, by what the model minds on the text."""
        if not isinstance(plan, ExportPlan):
            raise ConfigError("--via optimum takes the graph as it comes, so it cannot be calibrated; leave one out")
        for model in plan.models:
            _require_rounding(model)
        plan = _calibrated(plan)
        self._plan, self._documents, self._budget, self._seed = plan, documents, budget, seed
        self._windows = [Windows.of(model, documents, seed=seed) for model in plan.models]
        self._folders: list[WorkFolder] = []
        self._held_back: HeldBack | None = None

    def solve(self, on_progress: Callable[[float], None] = lambda share: None) -> ExportPlan:
        """Return the plan with its matrices solved. `on_progress` gets the share that is done."""
        with one_blas_thread():
            return self._solve(on_progress)

    def _solve(self, on_progress: Callable[[float], None]) -> ExportPlan:
        start = 0.0
        if self._budget is not None:
            start = _SHARE_OF_FIT
            recipe = self._fit(self._budget, partial(_part, on_progress, 0.0, start))
            self._plan = replace(self._plan, recipe=recipe)
        return self._solve_all(partial(_part, on_progress, start, 1 - start))

    def _fit(self, budget: Budget, on_progress: Callable[[float], None]) -> Recipe:
        if not _has_inputs(self._plan):
            return fit_recipe(self._plan, budget, on_progress=on_progress)
        tokens = self._windows[0].calibrate
        self._folders.append(WorkFolder.of_run(chained(b"fit", run_key(self._plan, tokens))))
        return fit_recipe(self._plan, budget, tokens, folder=self._folders[-1], on_progress=on_progress)

    def _solve_all(self, on_progress: Callable[[float], None]) -> ExportPlan:
        total, done = sum(model.num_parameters for model in self._plan.models), 0
        solved = list[ExportPlan]()
        for model, windows in zip(self._plan.models, self._windows, strict=True):
            share, start = model.num_parameters / total, done / total
            solved.append(self._solve_one(model, windows, partial(_part, on_progress, start, share)))
            done += model.num_parameters
        return replace(solved[0], draft_model=solved[1] if len(solved) > 1 else None)

    def _solve_one(self, plan: ExportPlan, windows: Windows, on_progress: Callable[[float], None]) -> ExportPlan:
        if not _has_inputs(plan):
            return plan
        found, folder = solve(plan, windows, on_progress=on_progress)
        self._folders.append(folder)
        if self._held_back is None and _has_inputs(self._plan):
            self._held_back = HeldBack(plan, windows.held_back, found.states)
        calibration = {
            "text": self._documents.source,
            "num_tokens": windows.num_tokens,
            "seed": self._seed,
            "matrices": found.num_solved,
        }
        return replace(found.plan, rounder=found.rounder, calibration=calibration)

    def check(self, other: Check | None) -> Check:
        """Return the check that judges the bundle on the text held back, after another one."""

        def both(folder: Path) -> Mapping[str, object]:
            figures = {} if other is None else other(folder)
            return {**figures, **({} if self._held_back is None else self._held_back(folder))}

        return both

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is rounded as without a text, and what the check found; a line each."""
        remarks = [remark for model in self._plan.models if (remark := _left_out(model))]
        return (*remarks, *(() if self._held_back is None else (self._held_back.line,)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            for folder in self._folders:
                folder.remove()


def within_budget(plan: ExportPlan | WrappedPlan, budget: Budget) -> ExportPlan:
    """Return a plan with a recipe that keeps a budget, chosen without a text. Raises: ConfigError."""
    if not isinstance(plan, ExportPlan):
        raise ConfigError("--via optimum has one recipe for all matrices, so it takes no --budget; leave one out")
    return replace(plan, recipe=fit_recipe(plan, budget))


def _part(on_progress: Callable[[float], None], start: float, share: float, done: float) -> None:
    on_progress(start + share * done)


def _calibrated(plan: ExportPlan) -> ExportPlan:
    """Return the plan, and its draft model's, with recipes that say what the text is for."""
    draft_model = None if plan.draft_model is None else _calibrated(plan.draft_model)
    return replace(plan, recipe=plan.recipe.calibrated(), draft_model=draft_model)


def _require_rounding(plan: ExportPlan) -> None:
    if plan.recipe.kl_bound == 0:
        raise ConfigError("--precision fp32 rounds nothing, so there is nothing to calibrate; leave one out")


def _has_inputs(plan: ExportPlan) -> bool:
    """Whether the inputs of matrices can be seen: layers of several streams cannot run apart."""
    return plan.architecture.altup is None


def _left_out(plan: ExportPlan) -> str:
    """Return what is rounded as without a text, in one line."""
    if not _has_inputs(plan):
        return f"{plan.architecture.family}: a model of several streams is rounded as without a text to calibrate"
    return "" if plan.architecture.experts is None else "what leads out of experts is rounded as without a text"

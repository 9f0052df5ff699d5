"""An export from the checkpoint to the finished bundle, as Python and the command line both run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from skipstone.calibrate import AUTO, Budget, CacheScalesOfText, Calibration, Documents, within_budget
from skipstone.carve import find_experts
from skipstone.check import ExportCheck, PrefillCheck, require_transformers
from skipstone.errors import ConfigError
from skipstone.exporters import SMALL_MODEL, ExportPlan, PlanKeywords, RecipeFile
from skipstone.exporters.optimum import WrappedPlan
from skipstone.planning import plan
from skipstone.prune import find_pruning
from skipstone.runtime.bundle import BundleWriter, Check, SigningKey
from skipstone.runtime.engine import CacheName
from skipstone.watcher import Watcher

__all__ = ["ExportJob"]

Plan: TypeAlias = ExportPlan | WrappedPlan
_CALIBRATED_A_MINUTE: Final = 30e6  # weights, on two cores


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """Plans, prunes, carves, chooses bits, calibrates, checks and writes.

    The fields are the options of `skipstone.export`.
    """

    checkpoint: str | Path
    output: Path
    options: PlanKeywords
    check: bool = False
    force: bool = False
    calibrate: str | Path | None = None
    budget: str | None = None
    prune: str | None = None
    experts: str | None = None
    active: float | None = None
    distill: bool = False
    cache: CacheName = "fp32"
    sign: str | Path | None = None

    def run(self, watcher: Watcher, *, command: str = "") -> Plan:
        """Write the bundle, and return the plan that was carried out; `command` is what the manifest says of it.

        Raises: as `skipstone.export` does.
        """
        BundleWriter(self.output, force=self.force)  # a taken place is refused before a checkpoint is fetched
        key = None if self.sign is None else SigningKey.read(Path(self.sign))
        if self.check:
            require_transformers()
        own = self._own_recipe()
        text = own.text if self.calibrate is None and own is not None else self.calibrate
        if self.active is not None and self.experts is None:
            raise ConfigError("--active is for experts; add --experts auto, or leave it out")
        if self.distill and self.experts is None:
            raise ConfigError("--distill is for experts; add --experts auto, or leave it out")
        documents = None if text is None else Documents.read(text)
        budget = None if self.budget is None else Budget.parse(self.budget)
        options: PlanKeywords = {**self.options}
        if own is not None:
            _require_text(own, documents)
            options["recipe"] = own
        elif (documents or budget) and options.get("precision") is None:
            options["precision"] = "int4"  # rounding was asked for, so integers are not kept
        planned = self._plan(options, documents, watcher)
        for remark in planned.remarks:
            watcher.remark(remark)
        if self.cache == "int8":
            _require_int8_cache(planned)
        comparison = ExportCheck(planned) if self.check else None
        reading = PrefillCheck(planned) if isinstance(planned, ExportPlan) and self.options.get("prefill") else None
        checks = _in_turn([check for check in (comparison, reading) if check is not None])
        if documents is None:
            planned = planned if budget is None else within_budget(planned, budget)
            self._write(planned, checks, key, watcher, command)
        else:
            with Calibration(planned, documents, budget=budget, seed=0 if own is None else own.seed) as calibration:
                with watcher.searching("calibrating") as on_progress:
                    planned = calibration.solve(on_progress)
                self._write(planned, calibration.check(checks), key, watcher, command)
                for remark in calibration.remarks:
                    watcher.remark(remark)
        for check in (comparison, reading):
            if check is not None:
                watcher.remark(check.verdict)
        return planned

    def _own_recipe(self) -> RecipeFile | None:
        recipe = self.options.get("recipe")
        return recipe if recipe is None or isinstance(recipe, RecipeFile) else RecipeFile.read(recipe)

    def _plan(self, options: PlanKeywords, documents: Documents | None, watcher: Watcher) -> Plan:
        """Return the plan, without the layers that are pruned, and with the FFNs carved."""
        planned = plan(self.checkpoint, **options)
        text = documents or (Documents.read(AUTO) if self.prune or self.experts else None)
        transforms = [*options.get("transforms", ())]
        if self.prune is not None and text is not None:
            with watcher.searching("pruning") as on_progress:
                pruning = find_pruning(planned, self.prune, text, on_progress=on_progress)
            watcher.remark(str(pruning))
            transforms.append(pruning.transform)
            planned = plan(self.checkpoint, **options | {"transforms": transforms})
        if self.experts is not None and text is not None:
            with watcher.searching("carving") as on_progress:
                found = find_experts(
                    planned, self.experts, text, active=self._active, distill=self.distill, on_progress=on_progress
                )
            watcher.remark(str(found))
            transforms.append(found.transform)
            planned = plan(self.checkpoint, **options | {"transforms": transforms})
        return planned

    @property
    def _active(self) -> float:
        """The share of experts that is active by default. Raises: ConfigError."""
        share = 0.5 if self.active is None else self.active
        if not 0 < share <= 1:
            raise ConfigError(f"--active is a share of the experts, above 0 and up to 1, not {share:g}")
        return share

    def _write(
        self, planned: Plan, check: Check | None, key: SigningKey | None, watcher: Watcher, command: str
    ) -> None:
        if self.cache == "int8" and isinstance(planned, ExportPlan):
            planned = planned.with_int8_cache(CacheScalesOfText(Documents.read(self.calibrate or AUTO)))
        with watcher.writing(planned) as on_progress:
            planned.write(
                self.output, force=self.force, command=command, check=check, sign=key, on_progress=on_progress
            )

    def advice(self, planned: Plan) -> str | None:
        """Return what makes smaller, or nearer, bundles than this export did; None where nothing is known to."""
        if not isinstance(planned, ExportPlan) or planned.calibration is not None or planned.num_kept:
            return None
        if {self.options.get("precision"), self.options.get("recipe")} == {None} and planned.recipe.name == "int8":
            return (
                f"int8, as models below {SMALL_MODEL / 1e6:.0f} M weights lose too much at 4 bits without a text; "
                "smaller: --precision int4 --calibrate auto"
            )
        minutes = planned.num_parameters / _CALIBRATED_A_MINUTE
        if not planned.recipe.is_coarse or minutes < 1:
            return None
        return f"rounded without a text; --calibrate auto loses less, and takes some {minutes:.0f} minutes"


def _require_int8_cache(planned: Plan) -> None:
    """Raise ConfigError where no graph can have one, before any work."""
    if not isinstance(planned, ExportPlan):
        raise ConfigError("--via optimum takes the graph as it comes, whose cache is fp32; leave --cache int8 out")
    planned.require_int8_cache()


def _in_turn(checks: Sequence[Check]) -> Check | None:
    """Return a check that gives the figures of all, None for none."""

    def all_figures(folder: Path) -> Mapping[str, object]:
        return {name: figure for check in checks for name, figure in check(folder).items()}

    return all_figures if checks else None


def _require_text(own: RecipeFile, documents: Documents | None) -> None:
    if own.recipe.reads_text and documents is None:
        raise ConfigError(f"recipe {own.recipe.name} rounds by a text; add --calibrate auto, or a file of yours")

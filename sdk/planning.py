"""What an export would do: the plan of a checkpoint, and that of a draft model beside it.

What only exporting needs is imported when it is planned: a running model does not pay for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from skipstone.bundled import BUNDLED
from skipstone.errors import ConfigError
from skipstone.option_types import checks_arguments

if TYPE_CHECKING:
    from skipstone.exporters import ExportKeywords, ExportPlan, Precision
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["plan"]


@checks_arguments
def plan(
    checkpoint: str | Path,
    *,
    draft_model: str | Path | None = None,
    draft_model_precision: Precision | None = None,
    drafter: str | Path | None = None,
    drafter_precision: Precision | None = None,
    via: Literal["optimum"] | None = None,
    **keywords: Unpack[ExportKeywords],
) -> ExportPlan | WrappedPlan:
    """Return what `export` would do, checked as far as the headers tell; the options are those of `export`.

    `remarks` of the plan say what is not as asked for, or not ideal; `write` of the plan does it.
    Raises: as `export` does.
    """
    from skipstone.exporters import ExportOptions, plan_export, with_draft_model

    options = ExportOptions.of(**keywords)
    draft_model = draft_model if drafter is None else drafter
    draft_model_precision = draft_model_precision or drafter_precision
    if via is not None:
        from skipstone.exporters.optimum import plan_wrapped

        return plan_wrapped(_source(checkpoint), options, draft_model=draft_model or draft_model_precision)
    small = None
    if draft_model is not None:
        precision, group_size = keywords.get("precision"), keywords.get("group_size")
        small_options = ExportOptions.of(
            precision=draft_model_precision or precision, group_size=group_size, target=options.target
        )
        if options.is_own_recipe and draft_model_precision is None:
            small_options = replace(small_options, recipe=options.recipe, keep_integers=options.keep_integers)
        small = plan_export(_source(draft_model), small_options)
    elif draft_model_precision is not None:
        raise ConfigError(
            f"the draft model's precision is {draft_model_precision}, but there is no draft model; name one as well"
        )
    target = plan_export(_source(checkpoint), options)
    return target if small is None else with_draft_model(target, small)


def _source(checkpoint: str | Path) -> str | Path:
    return BUNDLED.get(str(checkpoint), checkpoint)

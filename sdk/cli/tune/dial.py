"""skipstone tune --dial: how far the dial of an approximate method may be turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import TaskProgressColumn

from skipstone.cli.terminal import markdown_table, note_kept, print_json, progress_bar, write
from skipstone.errors import ConfigError
from skipstone.runtime.methods import (
    AGREEMENTS,
    DialCalibration,
    DialFinding,
    Method,
    approximate_methods,
    dial_note,
)

if TYPE_CHECKING:
    from skipstone.runtime.engine import Model

__all__ = ["calibrate", "dial_method"]


def dial_method(name: str) -> Method:
    """Return the approximate method called `name`. Raises: ConfigError when there is none, or it has no such dial."""
    methods = approximate_methods()
    if name in methods and methods[name].dial.is_agreement:
        raise ConfigError(f"the dial of {name} is the agreement itself; calibrate its exits with --exits")
    if name not in methods:
        known = ", ".join(name for name, method in methods.items() if not method.dial.is_agreement)
        raise ConfigError(f"--dial takes {known} here, got {name}")
    return methods[name]


def calibrate(
    model: Model,
    method: Method,
    texts: Sequence[str],
    bundle: str,
    *,
    max_tokens: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Calibrate, keep and print what was found."""
    from skipstone.bundled import notes_folder
    from skipstone.evaluate import MOST_TOKENS, calibrate_dial

    with progress_bar("calibrating", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
        found = calibrate_dial(
            model,
            method,
            texts,
            max_tokens=max_tokens or MOST_TOKENS,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    note = dial_note(model, method)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(found, path)
    if as_json:
        print_json(_record(found, method, bundle))
    else:
        write(_table(found, method))
    note_kept(path, "the calibration is", kept=kept, quiet=quiet)


def _used_for(found: DialCalibration, setting: float, method: Method) -> list[float]:
    """Return the agreements for which a setting is the one in use, the plain end where no other keeps them."""
    loosest = {agreement: found.loosest(agreement) for agreement in AGREEMENTS}
    return [agreement for agreement, one in loosest.items() if setting == (method.dial.plain if one is None else one)]


def _record(found: DialCalibration, method: Method, bundle: str) -> dict[str, object]:
    return {
        "bundle": bundle,
        "approximate": found.method,
        "num_tokens": found.num_tokens,
        "num_independent": found.num_independent,
        "error_rate": found.error_rate,
        "settings": [
            {
                "setting": one.setting,
                "num_wrong": one.num_wrong,
                "design_effect": one.design_effect,
                "agreement": 1 - one.num_wrong / found.num_tokens,
                "used_for": _used_for(found, one.setting, method),
            }
            for one in _with_plain(found, method)
        ],
    }


def _with_plain(found: DialCalibration, method: Method) -> list[DialFinding]:
    """Return what was found, and before it what is known: at the plain end every token is the full model's."""
    return [DialFinding(method.dial.plain, 0), *found.tested]


def _table(found: DialCalibration, method: Method) -> str:
    """Return, by setting, how many tokens were the full model's and for which agreement it is used."""
    rows = [
        [
            f"{one.setting:g}",
            f"{1 - one.num_wrong / found.num_tokens:.2%}" if one.setting != method.dial.plain else "plain decoding",
            ", ".join(f"{agreement:g}" for agreement in _used_for(found, one.setting, method)) or "-",
        ]
        for one in _with_plain(found, method)
    ]
    title = f"approximate decoding: {method.name}, dial: {method.dial.unit}\n"
    sure = f"each min agreement holds with a chance of {1 - found.error_rate:.0%} on texts like this one"
    worth = f"which tell as much as {found.num_independent} independent ones"
    count = f"calibrated on {found.num_tokens} tokens at each setting, {worth}; {sure}\n"
    return title + count + markdown_table(["dial", "agreement", "used for min agreement"], rows)

"""`skipstone tune dial`: how far the dial of an approximate method may be turned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import (
    BundleArgument,
    DraftDeviceOption,
    DraftModelOption,
    Place,
    Printing,
    TextsOption,
    read_texts,
    require_drafter,
)
from skipstone.cli.terminal import markdown_table, note_kept, print_json, progress_bar, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.runtime.methods import Calibration, DialFinding, Method

NAME = "dial"
EXAMPLES = """\b
Example:
  skipstone tune dial my-bundle --decode switch --text notes.txt"""


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    decode: Annotated[str, typer.Option(metavar="METHOD", help="switch, cascade, or another method with a dial.")],
    text: TextsOption = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Tokens at each setting; default: 4096.")] = None,
    draft_model: DraftModelOption = None,
    draft_device: DraftDeviceOption = None,
) -> None:
    """Calibrate the dial of an approximate method on texts.

    Finds how far it may be turned for shares of tokens that are to be as the full model's. It writes on from prompts
    spread over the text, and the full model judges that.
    """
    from skipstone.bundled import notes_folder
    from skipstone.evaluate import MOST_TOKENS, calibrate_dial
    from skipstone.runtime.methods import dial_note

    method = _method(decode)
    require_drafter(decode, draft_model, draft_device)
    texts = read_texts(text)
    model = place.load(bundle, draft_model=draft_model, draft_device=draft_device).runtime
    with progress_bar("calibrating", total=1.0, count=TaskProgressColumn(), quiet=printing.quiet) as (progress, task):
        calibration = calibrate_dial(
            model,
            method,
            texts,
            max_tokens=max_tokens or MOST_TOKENS,
            on_progress=lambda share: progress.update(task, completed=share),
        )
    note = dial_note(model, method)
    path = note.path(model.profiles or notes_folder())
    kept = note.save(calibration, path)
    if printing.as_json:
        print_json(_record(calibration, method, bundle))
    else:
        write(_table(calibration, method))
    note_kept(path, "the calibration is", kept=kept, quiet=printing.quiet)


def _method(name: str) -> Method:
    """Return the approximate method called `name`. Raises: ConfigError when there is none, or it has no such dial."""
    from skipstone.runtime.methods import approximate_methods

    methods = approximate_methods()
    if name in methods and methods[name].dial.is_agreement:
        raise ConfigError(
            f"the dial of {name} is the agreement itself; calibrate its exits with `skipstone tune exits`"
        )
    if name not in methods:
        known = ", ".join(name for name, method in methods.items() if not method.dial.is_agreement)
        raise ConfigError(f"--decode takes {known} here, got {name}")
    return methods[name]


def _used_for(found: Calibration, setting: float, method: Method) -> list[float]:
    """Return the agreements for which a setting is the one in use, the plain end where no other keeps them."""
    from skipstone.runtime.methods import AGREEMENTS

    loosest = {agreement: found.loosest(agreement) for agreement in AGREEMENTS}
    return [agreement for agreement, one in loosest.items() if setting == (method.dial.plain if one is None else one)]


def _record(found: Calibration, method: Method, bundle: str) -> dict[str, object]:
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


def _with_plain(found: Calibration, method: Method) -> list[DialFinding]:
    """Return what was found, and before it what is known: at the plain end every token is the full model's."""
    from skipstone.runtime.methods import DialFinding

    return [DialFinding(method.dial.plain, 0), *found.tested]


def _table(found: Calibration, method: Method) -> str:
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

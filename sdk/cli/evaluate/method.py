"""`skipstone eval method`: quality and speed of approximate decoding at several settings of its dial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn, TaskProgressColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import (
    BundleArgument,
    CalibrationOption,
    DraftDeviceOption,
    DraftModelOption,
    Place,
    PlotOption,
    Printing,
    RequiredTextsOption,
    numbers,
    read_text,
    require_drafter,
)
from skipstone.cli.terminal import markdown_table, print_json, progress_bar, write
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.bench import DialPoint
    from skipstone.evaluate import DialQuality, ExitQuality
    from skipstone.runtime.engine import Model
    from skipstone.runtime.methods import Method

NAME = "method"
EXAMPLES = """\b
Examples:
  skipstone eval method my-bundle --text held-out.txt --decode exit --plot dial.png
  skipstone eval method my-bundle --text held-out.txt --decode switch --dial 0.5,1,2"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFlags:
    """The settings to judge."""

    min_agreement: Annotated[
        list[float] | None, typer.Option(metavar="A", help="Judge what keeps this share of tokens; repeatable.")
    ] = None
    dial: Annotated[
        list[str] | None, typer.Option(metavar="X,...", help="Settings of its dial to judge; repeatable.")
    ] = None
    own: Annotated[bool, typer.Option("--own", help="Of exit: judge what it writes, not the texts as they are.")] = (
        False
    )
    calibration: CalibrationOption = None
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=2, help="Stop after so many tokens.")] = None


@unfold
def run(
    bundle: BundleArgument,
    place: Place,
    printing: Printing,
    text: RequiredTextsOption,
    decode: Annotated[str, typer.Option(metavar="METHOD", help="exit, switch, ...; see `skipstone generate`.")],
    dials: DialFlags,
    draft_model: DraftModelOption = None,
    draft_device: DraftDeviceOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure what approximate decoding costs in quality and brings in speed.

    How close the tokens of a method stay to the full model's, at several settings of its dial.
    """
    from skipstone.bench import plot_dial, require_plot

    judging = Judging.of(decode, dials)
    if plot is not None:
        require_plot(plot)
    require_drafter(decode, draft_model, draft_device)
    texts = [read_text(path) for path in text]
    model = place.load(bundle, draft_model=draft_model, draft_device=draft_device).runtime
    points = judging.run(model, texts, bundle, as_json=printing.as_json, quiet=printing.quiet)
    if plot is not None:
        plot_dial(points, title=f"{bundle}, approximate decoding: {decode}", path=plot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What to judge: a method at agreements, at settings of its dial, or by default at its own settings.

    `exit` is judged along the given text, or as the others along what it writes: its `own`.
    """

    method: Method
    min_agreement: tuple[float, ...]
    dial: tuple[float, ...]
    calibration: Path | None
    max_tokens: int | None
    own: bool = False

    def __post_init__(self) -> None:
        from skipstone.runtime.methods import require_agreement

        if self.own and (not self.method.dial.is_agreement or self.calibration is not None):
            raise ConfigError(
                "--own is for --decode exit, with the calibration that is kept; others are judged on their own texts"
            )
        if self.min_agreement and self.dial:
            raise ConfigError(f"--min-agreement and --dial both set the dial of {self.method.name}; give one of them")
        for agreement in self.min_agreement:
            require_agreement(agreement)
        for setting in self.dial:
            self.method.require(setting)
        if self.calibration is not None and not self.method.dial.is_agreement and not self.min_agreement:
            raise ConfigError("--calibration says which setting keeps an agreement; add --min-agreement")

    @classmethod
    def of(cls, decode: str, dials: DialFlags) -> Judging:
        """Return what the options ask for. Raises: ConfigError where they do not go together."""
        from skipstone.runtime.methods import approximate_methods

        methods = approximate_methods()
        if decode not in methods:
            known = ", ".join(methods)
            raise ConfigError(
                f"--decode takes {known} here, got {decode}; lossless methods write plain decoding's text"
            )
        return cls(
            method=methods[decode],
            min_agreement=tuple(dials.min_agreement or ()),
            dial=numbers("--dial", dials.dial or ()),
            calibration=dials.calibration,
            max_tokens=dials.max_tokens,
            own=dials.own,
        )

    def run(self, model: Model, texts: list[str], bundle: str, *, as_json: bool, quiet: bool) -> list[DialPoint]:
        """Judge, print, and return the points of a plot."""
        from skipstone.bench import DialPoint

        if self.method.dial.is_agreement and not self.own:
            exits = self._judge_exits(model, texts, quiet=quiet)
            unit = f"{exits[0].num_tokens} tokens of the text"
            self._show(_exit_table(exits), unit, [asdict(row) for row in exits], bundle, as_json=as_json)
            return [
                DialPoint(row.min_agreement, row.agreement, row.times_plain, row.expected_times_plain) for row in exits
            ]
        rows = self._judge(model, texts, quiet=quiet)
        unit = f"{rows[0].num_tokens} tokens of its own, dial: {self.method.dial.unit}"
        self._show(_dial_table(rows, self.min_agreement), unit, self._records(rows), bundle, as_json=as_json)
        return [DialPoint(row.setting, row.agreement, row.times_plain) for row in rows]

    def _records(self, rows: Sequence[DialQuality]) -> list[dict[str, object]]:
        """Return the rows as plain data, with the agreement that each was to keep, if any."""
        records: list[dict[str, object]] = [asdict(row) for row in rows]
        for record, agreement in zip(records, self.min_agreement, strict=False):
            record["min_agreement"] = agreement
        return records

    def _judge_exits(self, model: Model, texts: list[str], *, quiet: bool) -> list[ExitQuality]:
        from skipstone.evaluate import SETTINGS, evaluate_exits
        from skipstone.runtime.methods.depth import text_windows

        total = sum(map(len, text_windows(model, texts)))
        total = min(total, self.max_tokens or total)
        with progress_bar("tokens", total=total, count=MofNCompleteColumn(), quiet=quiet) as (progress, task):
            return evaluate_exits(
                model,
                texts,
                settings=self.min_agreement or self.dial or SETTINGS,
                calibration=self.calibration,
                max_tokens=self.max_tokens,
                on_progress=lambda count: progress.advance(task, count),
            )

    def _judge(self, model: Model, texts: list[str], *, quiet: bool) -> list[DialQuality]:
        from skipstone.evaluate import MOST_TOKENS, evaluate_dial
        from skipstone.runtime.methods import dial_setting

        kept = [
            dial_setting(model, self.method, agreement, None, calibration=self.calibration)[0]
            for agreement in self.min_agreement
        ]
        with progress_bar("judging", total=1.0, count=TaskProgressColumn(), quiet=quiet) as (progress, task):
            return evaluate_dial(
                model,
                self.method,
                texts,
                settings=kept or self.dial or None,
                max_tokens=self.max_tokens or MOST_TOKENS,
                on_progress=lambda share: progress.update(task, completed=share),
            )

    def _show(self, table: str, unit: str, records: list[dict[str, object]], bundle: str, *, as_json: bool) -> None:
        if as_json:
            print_json({"bundle": bundle, "approximate": self.method.name, "settings": records})
            return
        write(f"approximate decoding: {self.method.name}, {unit}\n{table}")


def _exit_table(rows: Sequence[ExitQuality]) -> str:
    head = ["min agreement", "exit", "leave", "agreement", "KL", "same text", "tokens/s", "x plain", "x expected"]
    cells = [
        [
            f"{row.min_agreement:g}",
            "none" if row.exit_layers is None else f"{row.exit_layers} layers",
            f"{row.early:.1%}",
            f"{row.agreement:.2%}",
            f"{row.kl:.4f}",
            f"{row.exact_match:.0%}",
            f"{row.tokens_per_s:.1f}",
            f"{row.times_plain:.2f}",
            f"{row.expected_times_plain:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(head, cells)


def _dial_table(rows: Sequence[DialQuality], min_agreement: Sequence[float]) -> str:
    """Return a line for each setting, before it the agreement that it was to keep, if any."""
    head = ["dial", "by less", "agreement", "KL", "same text", "tokens/s", "x plain"]
    cells = [
        [
            f"{row.setting:g}",
            f"{row.by_less:.1%}",
            f"{row.agreement:.2%}",
            f"{row.kl:.4f}",
            f"{row.exact_match:.0%}",
            f"{row.tokens_per_s:.1f}",
            f"{row.times_plain:.2f}",
        ]
        for row in rows
    ]
    if min_agreement:
        head = ["min agreement", *head]
        cells = [[f"{one:g}", *line] for one, line in zip(min_agreement, cells, strict=True)]
    return markdown_table(head, cells)

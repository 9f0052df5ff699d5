"""`skipstone tune threads`: how many threads decode fastest here, how long idle ones wait, and where they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn

from skipstone.cli.command import unfold
from skipstone.cli.options import BundleArgument, DeviceOption, Printing
from skipstone.cli.terminal import aligned, note_kept, notes, print_json, progress_bar, write

if TYPE_CHECKING:
    from skipstone.bench import ThreadSpeed

NAME = "threads"
EXAMPLES = """\b
Example:
  skipstone tune threads pebble"""


@unfold
def run(
    bundle: BundleArgument,
    printing: Printing,
    device: DeviceOption = "cpu",
    most: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most threads to try; default: the physical cores.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of a run.")] = 96,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs that count for each number.")] = 3,
) -> None:
    """Measure plain decoding on 1 thread and more, and keep what is fastest.

    Also with idle threads that sleep at once, or wait longer for work; and with threads that stay on processors of
    their own, where those differ or are more than threads. CPU ms are those of all threads: what a token costs a
    battery. Nothing is kept if other programs are busy meanwhile. Other commands then take as many threads at most, and
    fewer while the machine is busy, unless --threads fixes a number.
    """
    from skipstone.bench import measure_threads
    from skipstone.bundled import notes_folder
    from skipstone.cli.naming import bundle_folder
    from skipstone.devices import open_device, own_processors, physical_cores
    from skipstone.runtime.bundle import Bundle
    from skipstone.runtime.engine import threads_note

    counts = range(1, (most or physical_cores()) + 1)
    with progress_bar("threads", total=None, count=MofNCompleteColumn(), quiet=printing.quiet) as (bar, task):
        speeds = measure_threads(
            bundle_folder(bundle),
            counts,
            new_tokens=new_tokens,
            runs=runs,
            device=device,
            on_progress=lambda count: bar.advance(task, count),
        )
    best = max(speeds, key=lambda speed: speed.decode_tokens_per_s)
    note = threads_note(Bundle.open(bundle_folder(bundle)), open_device(device))
    path = note.path(notes_folder())
    is_busy = any(speed.is_starved for speed in speeds)
    kept = not is_busy and note.save(best.place, path)
    if printing.as_json:
        print_json({"bundle": bundle, "best": best.threads, "speeds": [asdict(speed) for speed in speeds]})
        return
    write(_table(speeds))
    _note(best, placed=bool(own_processors()), quiet=printing.quiet)
    if is_busy:
        notes(quiet=printing.quiet).print(
            "other programs were busy meanwhile, so nothing is kept: measure again when the machine is quiet"
        )
        return
    note_kept(path, "the finding is", kept=kept, quiet=printing.quiet)


def _note(best: ThreadSpeed, *, placed: bool, quiet: bool) -> None:
    console = notes(quiet=quiet)
    if not placed:
        console.print("threads were not placed on processors: this system does not let a program do that")
    console.print(f"fastest: {_told(best)}")


def _told(speed: ThreadSpeed) -> str:
    place = f", on processors {_processors(speed)}" if speed.processors else ""
    return f"{speed.threads} thread{'s' * (speed.threads > 1)}, idle ones awake for {speed.awake_us} us{place}"


def _processors(speed: ThreadSpeed) -> str:
    return ",".join(map(str, speed.processors)) or "any"


def _table(speeds: Sequence[ThreadSpeed]) -> str:
    rows = [
        [
            str(speed.threads),
            str(speed.awake_us),
            _processors(speed),
            f"{speed.decode_tokens_per_s:.1f}",
            f"{1e3 / speed.decode_tokens_per_s:.2f}",
            f"{1e3 * speed.decode_cpu_s_per_token:.2f}",
            f"{speed.prefill_tokens_per_s:.0f}",
        ]
        for speed in speeds
    ]
    head = ["threads", "us awake", "processors", "tokens/s", "ms/token", "CPU ms/token", "prompt tokens/s"]
    return aligned([head, *rows])

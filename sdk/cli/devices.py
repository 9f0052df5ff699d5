"""skipstone devices: where models can run, and whether a device keeps the decoding contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from skipstone.cli.options import JsonOption
from skipstone.cli.terminal import print_columns, print_json, write
from skipstone.errors import CheckFailed

if TYPE_CHECKING:
    from skipstone.check import Clause
    from skipstone.devices import DeviceInfo

NAME = "devices"
EXAMPLES = """\b
Examples:
  skipstone devices --json
  skipstone devices --check webgpu"""


def run(
    as_json: JsonOption = False,
    check: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Try the whole decoding contract on this device, beside the processor."),
    ] = None,
) -> None:
    """List the devices that models can run on.

    For each what it can do and how much memory it has, or why it cannot be used and what its provider comes with.
    """
    if check is not None:
        _check(check, as_json=as_json)
        return
    from skipstone.devices import catalog

    devices = catalog()
    if as_json:
        print_json([asdict(device) | {"capabilities": sorted(device.capabilities)} for device in devices])
        return
    here = [device for device in devices if device.available]
    write(_left_aligned([["device", "provider", "runs on", "memory"], *map(_cells, here)]) + "\n")
    write(_capabilities(here) + "\n")
    missing = [device for device in devices if not device.available]
    if missing:
        write("not here:\n")
        print_columns((device.name, _why(device)) for device in missing)


def _cells(device: DeviceInfo) -> list[str]:
    threads = f"{device.threads} thread{'s' * (device.threads != 1)}" if device.threads else ""
    return [device.name, device.provider, device.hardware or threads, _memory(device)]


def _memory(device: DeviceInfo) -> str:
    sizes = [size for size in (device.free_bytes, device.total_bytes) if size is not None]
    told = " of ".join(f"{size / 1e9:.1f}" for size in sizes)
    return f"{told} GB" + " free" * (device.free_bytes is not None) if told else ""


def _capabilities(devices: Sequence[DeviceInfo]) -> str:
    """Return which device can do what, and what is done on those that cannot."""
    from skipstone.devices import LACKS

    head = ["", *(device.name for device in devices), "where it is missing"]
    rows = [
        [str(name), *("yes" if name in device.capabilities else "-" for device in devices), lack]
        for name, lack in LACKS.items()
    ]
    return _left_aligned([head, *rows])


def _why(device: DeviceInfo) -> str:
    told = str(device.why)
    return (
        told
        if device.install is None or device.install in told
        else f"{told}\nits provider comes with: {device.install}"
    )


def _check(name: str, *, as_json: bool) -> None:
    """Print what becomes of each clause. Raises: CheckFailed where one is broken."""
    from skipstone.device_check import check_contract
    from skipstone.devices import open_device

    clauses = check_contract(open_device(name))
    if as_json:
        kept = list(clauses)
        print_json([asdict(clause) for clause in kept])
    else:
        kept = list(_shown(clauses))
    failed = [clause.name for clause in kept if clause.verdict == "failed"]
    if failed:
        raise CheckFailed(f"device {name} breaks {len(failed)} of {len(kept)} clauses: {', '.join(failed)}")


def _shown(clauses: Iterable[Clause]) -> Iterable[Clause]:
    """Yield clauses, each printed as soon as it is known."""
    for clause in clauses:
        write(f"{clause.name:10}  {clause.verdict:7}  {clause.reason}\n")
        yield clause


def _left_aligned(lines: list[list[str]]) -> str:
    """Return lines of cells as a table without rules, each column to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = (map(str.ljust, line, widths) for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in cells)

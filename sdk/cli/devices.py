"""skipstone devices: where models can run."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from skipstone.cli.options import JsonOption
from skipstone.cli.terminal import print_json

NAME = "devices"
EXAMPLES = """Example:

skipstone devices --json"""


def run(as_json: JsonOption = False) -> None:
    """List the devices: name, provider, threads, capabilities; for what is missing, why and what to install."""
    from skipstone.devices import catalog

    devices = catalog()
    if as_json:
        print_json([asdict(device) | {"capabilities": sorted(device.capabilities)} for device in devices])
        return
    table = Table("device", "provider", "threads", "can do, or what is missing", box=None, pad_edge=False)
    for device in devices:
        remark = ", ".join(sorted(device.capabilities)) if device.available else f"{device.why}"
        if device.install:
            remark += f"; {device.install}"
        table.add_row(device.name, device.provider, str(device.threads or ""), remark)
    Console(highlight=False).print(table)

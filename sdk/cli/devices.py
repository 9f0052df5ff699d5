"""skipstone devices: where models can run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from skipstone.cli.options import JsonOption
from skipstone.cli.terminal import print_columns, print_json

if TYPE_CHECKING:
    from skipstone.devices import DeviceInfo

NAME = "devices"
EXAMPLES = """\b
Example:
  skipstone devices --json"""


def run(as_json: JsonOption = False) -> None:
    """List the devices that models can run on.

    For each what it can do, or why it cannot be used and what its provider comes with.
    """
    from skipstone.devices import catalog

    devices = catalog()
    if as_json:
        print_json([asdict(device) | {"capabilities": sorted(device.capabilities)} for device in devices])
    else:
        print_columns((device.name, _remark(device)) for device in devices)


def _remark(device: DeviceInfo) -> str:
    if not device.available:
        return f"{device.why}" + (f"\nits provider comes with: {device.install}" if device.install else "")
    threads = f" on {device.threads} threads" if device.threads else ""
    return f"{device.provider}{threads}" + "".join(f", {name}" for name in sorted(device.capabilities))

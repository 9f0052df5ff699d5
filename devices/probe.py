"""Whether a device really works here: a graph of one operator, opened and run on it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from skipstone.devices.device import Device
from skipstone.errors import DeviceError

__all__ = ["DOUBLING", "probe"]

# y = x + x for float32 numbers, as ONNX writes it: reading this needs no package that builds graphs.
DOUBLING: Final = (
    b'\x08\x08:7\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01n'
    b"b\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\x12"
)
NUMBERS: Final = (1.0, 2.5, -3.0)


def probe(device: Device) -> None:
    """Raise DeviceError unless the device opens a graph, runs it and gives its numbers."""
    try:
        found = _doubled(device)
    except Exception as error:  # whatever is wrong with a provider, or with another package
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(f"device {device.name} is here, but broken: {reason}") from error
    wanted = [2 * number for number in NUMBERS]
    if found != wanted:
        raise DeviceError(f"device {device.name} is here, but broken: it gave {found} for {wanted}")


def _doubled(device: Device) -> list[float]:
    numbers, results = (device.allocate((len(NUMBERS),), np.float32) for _ in range(2))
    numbers.write(NUMBERS)
    with TemporaryDirectory(prefix="skipstone-probe-") as folder:
        path = Path(folder) / "doubling.onnx"
        path.write_bytes(DOUBLING)
        binding = device.bind(device.open_session(path))
        binding.read_from("x", numbers)
        binding.write_to("y", results)
        binding.run()
        found: list[float] = results.read().tolist()
    return found

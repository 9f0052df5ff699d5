"""The processor as a device that takes graphs of fixed shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from skipstone.devices import Capability, CpuDevice
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedDevice(CpuDevice):
    capabilities: ClassVar[frozenset[str]] = CpuDevice.capabilities - {Capability.DYNAMIC_SHAPES}


def fixed(bundle: Path) -> Model:
    """Return a bundle opened on such a device."""
    return Model(Bundle.open(bundle), FixedDevice(threads=1))

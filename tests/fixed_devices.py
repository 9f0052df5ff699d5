"""The processor as a device that takes float16, which it runs by way of float32, and fixed shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from skipstone.devices import Capability, CpuDevice
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfDevice(CpuDevice):
    capabilities: ClassVar[frozenset[str]] = CpuDevice.capabilities | {Capability.FP16}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedDevice(HalfDevice):
    capabilities: ClassVar[frozenset[str]] = HalfDevice.capabilities - {Capability.DYNAMIC_SHAPES}


def free(bundle: Path) -> Model:
    """Return a bundle opened on a device that takes all shapes."""
    return Model(Bundle.open(bundle), HalfDevice(threads=1))


def fixed(bundle: Path) -> Model:
    """Return a bundle opened on such a device."""
    return Model(Bundle.open(bundle), FixedDevice(threads=1))

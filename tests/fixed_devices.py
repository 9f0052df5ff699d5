"""The processor as devices that it is not: one of fixed shapes only, and one that takes bundles of every target."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyTarget(CpuDevice):
    targets: ClassVar[tuple[str, ...]] = (*CpuDevice.targets, "cuda")


def forced(bundle: Path) -> Model:
    """Return a bundle opened on the processor, whatever it was made for."""
    return Model(Bundle.open(bundle), AnyTarget(threads=1))


def fixed(bundle: Path) -> Model:
    """Return a bundle opened on such a device."""
    return Model(Bundle.open(bundle), FixedDevice(threads=1))

"""Where a model runs: execution providers behind one `Device`."""

from __future__ import annotations

from skipstone.devices.buffer import Binding, Buffer
from skipstone.devices.cancellation import Cancellation, Cancelled, cancellable, current_cancellation, run_cancellable
from skipstone.devices.capabilities import LACKS, Capability
from skipstone.devices.catalog import DeviceInfo, catalog
from skipstone.devices.cpu import CpuDevice
from skipstone.devices.device import (
    DEFAULT_DEVICE,
    BoundedDevice,
    Device,
    Hardware,
    HardwareDevice,
    Session,
    SizedDevice,
    StagedDevice,
    TargetedDevice,
    ThreadedDevice,
    Workers,
)
from skipstone.devices.doors import DOORS, Door
from skipstone.devices.free_memory import free_bytes
from skipstone.devices.freed_memory import give_back
from skipstone.devices.opening import choose_device, open_device
from skipstone.devices.plug_ins import provider_devices
from skipstone.devices.processors import fastest_first, own_processors, speed_of
from skipstone.devices.thread_bounds import bounded
from skipstone.devices.threads import physical_cores

__all__ = [
    "DEFAULT_DEVICE",
    "DOORS",
    "LACKS",
    "Binding",
    "BoundedDevice",
    "Buffer",
    "Cancellation",
    "Cancelled",
    "Capability",
    "CpuDevice",
    "Device",
    "DeviceInfo",
    "Door",
    "Hardware",
    "HardwareDevice",
    "Session",
    "SizedDevice",
    "StagedDevice",
    "TargetedDevice",
    "ThreadedDevice",
    "Workers",
    "bounded",
    "cancellable",
    "catalog",
    "choose_device",
    "current_cancellation",
    "fastest_first",
    "free_bytes",
    "give_back",
    "open_device",
    "own_processors",
    "physical_cores",
    "provider_devices",
    "run_cancellable",
    "speed_of",
]

"""Where a model runs: execution providers behind one `Device`."""

from __future__ import annotations

from skipstone.devices.catalog import DeviceInfo, catalog
from skipstone.devices.cost_curve import CostCurve
from skipstone.devices.device import Device, open_device
from skipstone.devices.threads import physical_cores

__all__ = ["CostCurve", "Device", "DeviceInfo", "catalog", "open_device", "physical_cores"]

"""What calls of a model cost on this device: measured once, then read from a file."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import onnxruntime

from skipstone.runtime.bundle import Note
from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.costs.measure import measure_costs
from skipstone.runtime.engine import Model

__all__ = ["cost_curve", "costs_note", "device_note"]

T = TypeVar("T")


def cost_curve(model: Model, *, measure: Callable[[Model], CostCurve] = measure_costs) -> CostCurve:
    """Return what calls of this model cost here; measured when no file knows it, which takes about a second."""
    return model.shared.get(
        "cost curve", lambda: costs_note(model).find_or_make(model.profiles, lambda: measure(model))
    )


def costs_note(model: Model) -> Note[CostCurve]:
    """Return the note of a model's cost curve on its device."""
    return device_note(CostCurve, model, name="costs", what="cost curve")


def device_note(
    finding: type[T],
    model: Model,
    *,
    name: str,
    what: str,
    processor: str | None = None,
    onnxruntime_version: str = onnxruntime.__version__,
) -> Note[T]:
    """Return the note of a measurement. It depends on the bundle's files, the device, its threads and processor."""
    device, manifest = model.device, model.manifest.to_json()
    made_for = {
        "manifest": hashlib.sha256(manifest.encode()).hexdigest(),
        "device": device.name,
        "threads": device.threads,
        "processor": _processor() if processor is None else processor,
        "onnxruntime": onnxruntime_version,
    }
    return Note(
        finding=finding, name=name, what=what, command="`skipstone tune BUNDLE`", made_for=made_for, key=made_for
    )


def _processor() -> str:
    """Return the processor's name; the machine's architecture where the system does not tell it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""The cost curve of a model on this device: measured once, then read from a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import keep_json
from skipstone.runtime.costs.curve import CostCurve
from skipstone.runtime.costs.measure import measure_costs
from skipstone.runtime.engine import Model

__all__ = ["cost_curve", "profile_path", "save_curve"]


def cost_curve(model: Model, *, measure: Callable[[Model], CostCurve] = measure_costs) -> CostCurve:
    """Return what calls of this model cost here; measured when no file knows it, which takes about a second."""
    return model.shared.get("cost curve", lambda: _load(model) or _measured(model, measure))


def profile_path(model: Model) -> Path | None:
    """Return the file for the curve, None when nothing is to be kept.

    Its name depends on all that changes the costs: the bundle's files, the device, its threads, processor, onnxruntime.
    """
    if model.profiles is None:
        return None
    device = model.device
    parts = (model.manifest.to_json(), device.name, device.threads, _processor(), onnxruntime.__version__)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return model.profiles / f"costs-{key}.json"


def save_curve(model: Model, curve: CostCurve) -> Path | None:
    """Write the curve for later processes and return its file.

    None when it cannot be kept, which is no error: it is measured again.
    """
    path = profile_path(model)
    return path if path is not None and keep_json(curve.to_json(), path) else None


def _load(model: Model) -> CostCurve | None:
    path = profile_path(model)
    if path is None:
        return None
    try:
        return CostCurve.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError):
        return None  # missing or damaged, so measured


def _measured(model: Model, measure: Callable[[Model], CostCurve]) -> CostCurve:
    curve = measure(model)
    save_curve(model, curve)
    return curve


def _processor() -> str:
    """Return the processor's name; the machine's architecture where the system does not tell it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

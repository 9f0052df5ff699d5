"""The note of a measurement: it holds for the files of one bundle on one device."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from pathlib import Path
from typing import TypeVar

import onnxruntime

from skipstone.devices import Device, HardwareDevice
from skipstone.runtime.bundle import Note
from skipstone.runtime.engine.sessions import Sessions

__all__ = ["device_note", "hardware_name"]

T = TypeVar("T")


def device_note(
    finding: type[T],
    sessions: Sessions,
    *,
    name: str,
    what: str,
    threads: int | None = None,
    processor: str | None = None,
    onnxruntime_version: str = onnxruntime.__version__,
) -> Note[T]:
    """Return the note of a measurement. It depends on the bundle's files, the device, its threads and processor, the
    type of cache. `threads` says where it was made on fewer than all."""
    device, manifest = sessions.device, sessions.manifest.to_json()
    cache_type = sessions.cache_type
    made_for = {
        "manifest": hashlib.sha256(manifest.encode()).hexdigest(),
        "device": device.name,
        "threads": device.threads if threads is None else threads,
        "processor": hardware_name(device) if processor is None else processor,
        "onnxruntime": onnxruntime_version,
        **({} if cache_type == sessions.manifest.numbers else {"cache": cache_type}),
    }
    return Note(
        finding=finding, name=name, what=what, command="`skipstone tune BUNDLE`", made_for=made_for, key=made_for
    )


def hardware_name(device: Device) -> str:
    """Return the name of what the device runs on."""
    return device.hardware.name if isinstance(device, HardwareDevice) else _processor()


def _processor() -> str:
    """Return the processor's name; the machine's architecture where the system does not tell it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

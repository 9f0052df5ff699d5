"""The threads that decode a bundle fastest on a device, as `tune threads` found them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from skipstone.devices import Device, ThreadedDevice, physical_cores
from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Bundle, Note
from skipstone.runtime.engine.device_note import hardware_name

__all__ = ["BestThreads", "on_best_threads", "threads_note"]


MOST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BestThreads:
    """How many threads, for how many microseconds an idle one stays awake, and on which processors all but one stay."""

    threads: int
    awake_us: int
    processors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (
            1 <= self.threads <= MOST and 0 <= self.awake_us <= MOST and all(0 <= at <= MOST for at in self.processors)
        ):
            raise ConfigError("the best threads are 1 or more, awake for 0 us or more, on processors from 0 on")


def threads_note(bundle: Bundle, device: Device) -> Note[BestThreads]:
    """Return the note of the best threads: it holds for the bundle's files, the device, the processor and its cores."""
    made_for = {
        "manifest": hashlib.sha256(bundle.manifest.to_json().encode()).hexdigest(),
        "device": device.name,
        "cores": physical_cores(),
        "processor": hardware_name(device),
        "onnxruntime": onnxruntime.__version__,
    }
    return Note(
        finding=BestThreads,
        name="threads",
        what="finding of threads",
        command="`skipstone tune threads BUNDLE`",
        made_for=made_for,
        key=made_for,
    )


def on_best_threads(bundle: Bundle, device: Device, folder: Path | None) -> Device:
    """Return a device with the threads that were found best for a bundle; as it is where none were, or are given."""
    if not isinstance(device, ThreadedDevice) or not device.adapts:
        return device
    best = threads_note(bundle, device).find(folder)
    if best is None:
        return device
    return device.placed(threads=best.threads, awake_us=best.awake_us, processors=best.processors)

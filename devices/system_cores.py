"""Physical cores where the system itself counts them: macOS and Windows."""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Final

__all__ = ["count_records", "system_cores"]

CORES: Final = 0  # of GetLogicalProcessorInformationEx: one record for each core


def system_cores() -> int | None:
    """Return the physical cores of this machine; None where the system does not tell."""
    if sys.platform == "darwin":
        return _macos_cores()
    if sys.platform == "win32":
        return _windows_cores()
    return None


def _macos_cores() -> int | None:
    cores, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    failed = ctypes.CDLL(None).sysctlbyname(b"hw.physicalcpu", ctypes.byref(cores), ctypes.byref(size), None, 0)
    return None if failed else cores.value or None


def _windows_cores() -> int | None:
    if sys.platform != "win32":
        return None
    read, size = ctypes.WinDLL("kernel32").GetLogicalProcessorInformationEx, ctypes.c_ulong(0)
    read(CORES, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    return (count_records(buffer.raw) or None) if read(CORES, buffer, ctypes.byref(size)) else None


def count_records(data: bytes) -> int:
    """Return how many of Windows' records there are: each begins with its kind and its own size, 4 bytes each."""
    start = count = 0
    while start < len(data):
        _, size = struct.unpack_from("<II", data, start)
        start, count = start + size, count + 1
    return count

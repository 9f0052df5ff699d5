"""How much memory this process may still take, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from skipstone.devices.control_groups import granted_bytes

__all__ = ["free_bytes", "linux_bytes", "total_bytes"]

KIB: Final = 1024
VM_INFO, VM_NUMBERS = 4, 64  # of macOS' host_statistics64: which statistics, and room for all its numbers


def free_bytes() -> int | None:
    """Return the bytes of memory that this process may still take, without swapping; None where nobody tells.

    That is what the system has left, files it can drop included, and no more than control groups and `ulimit` grant.
    """
    system = {"linux": _linux, "darwin": _macos, "win32": _windows}.get(sys.platform, lambda: None)()
    return min([*([] if system is None else [system]), *_below_limits()], default=None)


def total_bytes() -> int | None:
    """Return the bytes of memory that this machine has; None where nobody tells."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def linux_bytes(root: Path) -> int | None:
    """Return what Linux and our control groups grant; `root` holds its `sys` and `proc`."""
    return min([*_available(root), *granted_bytes(root)], default=None)


def _available(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield max(0, int(value.split()[0])) * KIB


def _below_limits() -> Iterator[int]:
    """Yield what `ulimit -v` leaves of our addresses, where it is set."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError, IndexError):
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield max(0, limit - pages * resource.getpagesize())


def _linux() -> int | None:
    return linux_bytes(Path("/"))


def _macos() -> int | None:
    """Return the pages that are free or were not used for long: the first and the third number."""
    system, numbers, count = ctypes.CDLL(None), (ctypes.c_uint * VM_NUMBERS)(), ctypes.c_uint(VM_NUMBERS)
    failed = system.host_statistics64(system.mach_host_self(), VM_INFO, numbers, ctypes.byref(count))
    return None if failed else (numbers[0] + numbers[2]) * os.sysconf("SC_PAGE_SIZE")


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total_physical", ctypes.c_ulonglong),
        ("free_physical", ctypes.c_ulonglong),
        ("total_page_file", ctypes.c_ulonglong),
        ("free_page_file", ctypes.c_ulonglong),
        ("total_virtual", ctypes.c_ulonglong),
        ("free_virtual", ctypes.c_ulonglong),
        ("free_extended_virtual", ctypes.c_ulonglong),
    )


def _windows() -> int | None:
    if sys.platform != "win32":
        return None
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    found = ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))
    return min(status.free_physical, status.free_page_file) if found else None

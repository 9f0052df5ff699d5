"""A test run in several processes: each computes on one thread, and all share what takes long to make."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

WORKER = "PYTEST_XDIST_WORKER"  # gw0, gw1, ... in the processes that pytest-xdist starts, unset elsewhere


def use_one_core(config: pytest.Config) -> None:
    """Keep this process, and those that it starts, on one core; benchmarks keep all.

    Two threads of onnxruntime that wait for each other spin, and on a busy machine each spins away the other's time.
    """
    starts_workers = config.getoption("numprocesses", None) and WORKER not in os.environ
    if starts_workers or config.getoption("benchmark_only") or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    number = int(os.environ.get(WORKER, f"gw{os.getpid()}").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


@dataclass(frozen=True, slots=True)
class SharedFolders:
    """Folders of a test run. The first process that asks for one makes it, the others wait and take it as it is."""

    root: Path

    def __call__(self, make: Callable[[Path], object], *key: object) -> Path:
        """Return the folder of `key`, made by `make` if it is not there yet; nobody may change it."""
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        folder, done = self.root / name, self.root / f"{name}.done"
        with FileLock(self.root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                done.touch()
        return folder


def shared_folders(tmp_path_factory: pytest.TempPathFactory) -> SharedFolders:
    """Return the folders of this run; pytest-xdist gives each worker a folder of its own inside of the run's."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if WORKER in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    return SharedFolders(root)

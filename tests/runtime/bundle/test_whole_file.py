"""A file that is there whole or not at all, and what a process leaves that is ended while it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipstone.runtime.bundle import write_whole

ENDED = """
import os, signal, sys
from pathlib import Path
from skipstone.runtime.bundle import write_whole
def pieces():
    yield b"half of it"
    os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path(sys.argv[1]), pieces())
"""
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="files have no such locks there")


def older(file: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(file, (when, when))


@POSIX
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", ENDED, str(tmp_path / "kept")], env=environment, check=False)
    (left,) = tmp_path.iterdir()
    older(left, 5)
    write_whole(tmp_path / "kept", [b"whole"])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("kept", b"whole")]


@POSIX
def test_what_another_process_writes_stays(tmp_path: Path) -> None:
    seen = []

    def slow() -> Iterator[bytes]:
        yield b"slow"
        (partial,) = tmp_path.iterdir()
        older(partial, 5)
        write_whole(tmp_path / "other", [b"quick"])
        # A second writer of the same file, as another thread or process would be.
        code = "import sys; from pathlib import Path; from skipstone.runtime.bundle import write_whole; "
        code += "write_whole(Path(sys.argv[1]), [b'second'])"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "kept")], env=environment, check=True)
        seen.append((tmp_path / "kept").read_bytes())

    write_whole(tmp_path / "kept", slow())
    assert seen == [b"second"]
    assert (tmp_path / "kept").read_bytes() == b"slow"


@pytest.mark.parametrize("age", [-(10**6), 0.0, 10**4])
def test_a_clock_that_went_back_harms_nothing(tmp_path: Path, age: float) -> None:
    left = tmp_path / ".kept.partial-1-1"
    left.write_bytes(b"half")
    older(left, age)
    assert write_whole(tmp_path / "kept", [b"whole"]) == 5
    assert left.exists() == (age < 600)

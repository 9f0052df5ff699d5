"""Memory that a process may still take, on made-up copies of Linux's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.devices import free_bytes
from skipstone.devices.free_memory import linux_bytes

MIB = 1 << 20
SYSTEM = "MemTotal:  8388608 kB\nMemFree:    102400 kB\nMemAvailable:  4096000 kB\n"


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_group(folder: Path, *, limit: str, taken: int, files: int = 0, slow: str = "max") -> None:
    write_file(folder / "memory.max", f"{limit}\n")
    write_file(folder / "memory.high", f"{slow}\n")
    write_file(folder / "memory.current", f"{taken}\n")
    write_file(folder / "memory.stat", f"anon 5\ninactive_file {files}\nactive_file 7\n")


def test_without_groups_it_is_what_the_system_says_is_available(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/meminfo", SYSTEM)
    assert linux_bytes(tmp_path) == 4_096_000 * 1024


def test_where_nobody_tells_it_is_not_known(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/meminfo", "MemTotal: 5 kB\nMemAvailable: some\n")
    assert linux_bytes(tmp_path) is None
    assert linux_bytes(Path("/nowhere")) is None


@pytest.mark.parametrize(
    ("outer", "inner", "mib"),
    [
        (("max", 0), ("max", 0), 4000),
        (("max", 0), (512, 100), 412),
        (("300", 280), (512, 100), 20),
        ((64, 80), (9, 1), 0),
    ],
)
def test_a_control_group_and_its_parents_are_upper_bounds(
    tmp_path: Path, outer: tuple[str, int], inner: tuple[str, int], mib: int
) -> None:
    write_file(tmp_path / "proc/meminfo", SYSTEM)
    write_file(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    for folder, (limit, taken) in (("outer", outer), ("outer/inner", inner)):
        bound = limit if limit == "max" else str(int(limit) * MIB)
        write_group(tmp_path / "sys/fs/cgroup" / folder, limit=bound, taken=taken * MIB)
    assert linux_bytes(tmp_path) == mib * MIB


def test_files_that_a_group_holds_are_free_and_the_bound_that_slows_counts(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/self/cgroup", "0::/here\n")
    folder = tmp_path / "sys/fs/cgroup/here"
    write_group(folder, limit=str(500 * MIB), slow=str(300 * MIB), taken=250 * MIB, files=100 * MIB)
    assert linux_bytes(tmp_path) == 150 * MIB


def test_version_1_has_other_names_and_a_huge_number_for_no_limit(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/self/cgroup", "4:cpu:/c\n5:memory:/outer/inner\n")
    folder = tmp_path / "sys/fs/cgroup/memory/outer"
    for place, limit, taken in ((folder, 400 * MIB, 100 * MIB), (folder / "inner", 2**63 - 4096, 90 * MIB)):
        write_file(place / "memory.limit_in_bytes", str(limit))
        write_file(place / "memory.usage_in_bytes", str(taken))
        write_file(place / "memory.stat", f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n")
    assert linux_bytes(tmp_path) == 320 * MIB


@given(st.text(max_size=40))
def test_whatever_stands_in_the_file_is_no_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "proc").mkdir()
        (Path(folder) / "proc/meminfo").write_text(f"MemAvailable:{text}", encoding="utf-8", errors="replace")
        assert (linux_bytes(Path(folder)) or 0) >= 0


def test_this_machine_has_some() -> None:
    left = free_bytes()
    assert left is None or left >= 0

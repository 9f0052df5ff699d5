"""Cores that a process may use, on made-up copies of Linux's files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.devices import physical_cores
from skipstone.devices.system_cores import count_records
from skipstone.devices.threads import count_cores


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_siblings(root: Path, siblings: dict[int, str]) -> None:
    for processor, text in siblings.items():
        write_file(root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list", text + "\n")


def test_two_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    write_siblings(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert count_cores({0, 1, 2, 3}, tmp_path) == 2
    assert count_cores({0, 2}, tmp_path) == 1
    assert count_cores({0, 3}, tmp_path) == 2


def test_processors_without_known_siblings_count_as_cores(tmp_path: Path) -> None:
    assert count_cores({0, 1, 5}, tmp_path) == 3
    assert count_cores(set(), tmp_path) == 1


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [
        ("max 100000", "max 100000", 8),
        ("max 100000", "150000 100000", 2),
        ("300000 100000", "max 100000", 3),
        ("300000 100000", "200000 100000", 2),
        ("1000 100000", "200000 100000", 1),
        ("max 100000", "9900000 100000", 8),
    ],
)
def test_the_quota_of_a_control_group_or_of_its_parent_is_an_upper_bound(
    tmp_path: Path, outer: str, inner: str, cores: int
) -> None:
    write_file(tmp_path / "proc/self/cgroup", "4:memory:/other\n0::/outer/inner\n")
    write_file(tmp_path / "sys/fs/cgroup/outer/cpu.max", outer + "\n")
    write_file(tmp_path / "sys/fs/cgroup/outer/inner/cpu.max", inner + "\n")
    assert count_cores(range(8), tmp_path) == cores


OLD = "sys/fs/cgroup/cpu,cpuacct"


def write_old_limit(folder: Path, quota: int, period: int = 100_000) -> None:
    write_file(folder / "cpu.cfs_quota_us", f"{quota}\n")
    write_file(folder / "cpu.cfs_period_us", f"{period}\n")


@pytest.mark.parametrize(("outer", "inner", "cores"), [(-1, -1, 8), (-1, 150_000, 2), (300_000, -1, 3), (1000, -1, 1)])
@pytest.mark.parametrize("folder", [OLD, "sys/fs/cgroup/cpu"])
def test_version_1_has_two_files_and_no_limit_is_minus_one(
    tmp_path: Path, folder: str, outer: int, inner: int, cores: int
) -> None:
    write_file(tmp_path / "proc/self/cgroup", "11:memory:/m\n4:cpu,cpuacct:/outer/inner\n3:cpuset:/c\n0::/outer\n")
    write_old_limit(tmp_path / folder / "outer", outer)
    write_old_limit(tmp_path / folder / "outer/inner", inner)
    write_old_limit(tmp_path / "sys/fs/cgroup/cpuset/c", 1000)
    assert count_cores(range(8), tmp_path) == cores


def test_a_container_sees_its_own_group_of_version_1_at_the_mount(tmp_path: Path) -> None:
    write_file(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n")
    write_old_limit(tmp_path / OLD, 200_000)
    assert count_cores(range(16), tmp_path) == 2


MOUNTS = """\
30 25 0:26 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
31 25 0:27 /docker/abc /dev/cpuctl rw,nosuid master:9 - cgroup none rw,cpu,cpuacct
32 25 0:28 / /mnt/new rw,nosuid shared:4 - cgroup2 cgroup2 rw
33 25 0:29 / / rw - ext4 /dev/root rw
"""


@pytest.mark.parametrize(
    ("group", "file", "text"),
    [
        ("4:cpu,cpuacct:/docker/abc/inner", "dev/cpuctl/inner/cpu.cfs_quota_us", "250000"),
        ("4:cpu,cpuacct:/docker/abc/inner", "dev/cpuctl/cpu.cfs_quota_us", "250000"),
        ("4:cpu,cpuacct:/elsewhere", "dev/cpuctl/cpu.cfs_quota_us", "250000"),
        ("0::/inner", "mnt/new/inner/cpu.max", "250000 100000"),
    ],
)
def test_control_groups_are_found_where_they_are_mounted(tmp_path: Path, group: str, file: str, text: str) -> None:
    write_file(tmp_path / "proc/self/mountinfo", MOUNTS)
    write_file(tmp_path / "proc/self/cgroup", group + "\n")
    write_file((tmp_path / file).with_name("cpu.cfs_period_us"), "100000\n")
    write_file(tmp_path / file, text + "\n")
    assert count_cores(range(16), tmp_path) == 3


@settings(deadline=None)
@given(st.sets(st.integers(0, 2**12)))
def test_there_is_always_one_core_and_never_more_than_processors(processors: set[int]) -> None:
    assert 1 <= count_cores(processors, Path("/nowhere")) <= max(1, len(processors))


def test_this_machine_has_a_core() -> None:
    assert physical_cores() >= 1


def test_physical_cores_are_counted_without_an_affinity_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    write_siblings(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert physical_cores(tmp_path) == 2


def test_windows_tells_one_record_for_each_core() -> None:
    records = [struct.pack("<II", 0, size) + bytes(size - 8) for size in (48, 48, 64)]
    assert count_records(b"".join(records)) == 3
    assert count_records(b"") == 0

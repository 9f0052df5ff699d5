"""Which processors are faster than others, as the system tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipstone.bench import threads as bench_threads
from skipstone.devices import fastest_first, speed_of


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """Four slow processors, two fast ones, and two threads of a middling core."""
    speeds = {0: 250, 1: 250, 2: 250, 3: 250, 4: 1024, 5: 1024, 6: 600, 7: 600}
    for processor, speed in speeds.items():
        folder = tmp_path / f"sys/devices/system/cpu/cpu{processor}"
        (folder / "topology").mkdir(parents=True)
        (folder / "cpu_capacity").write_text(f"{speed}\n")
        siblings = "6-7" if processor >= 6 else str(processor)
        (folder / "topology/thread_siblings_list").write_text(f"{siblings}\n")
    return tmp_path


def test_the_fastest_come_first_and_one_of_each_core(phone: Path) -> None:
    assert fastest_first(range(8), phone) == (4, 5, 6, 0, 1, 2, 3)


def test_the_highest_clock_counts_where_no_capacity_is_told(tmp_path: Path) -> None:
    for processor, clock in ((0, 2_000_000), (1, 3_000_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{processor}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(str(clock))
    assert fastest_first((0, 1), tmp_path) == (1, 0)


def test_without_a_word_of_the_system_all_are_alike(tmp_path: Path) -> None:
    assert fastest_first((3, 1), tmp_path) == (1, 3)
    assert speed_of(1, tmp_path) == 0


@pytest.mark.parametrize(("threads", "processors"), [(1, None), (2, (5,)), (3, (5, 6)), (8, None)])
def test_threads_are_placed_where_cores_differ_or_are_more(
    phone: Path, monkeypatch: pytest.MonkeyPatch, threads: int, processors: tuple[int, ...] | None
) -> None:
    monkeypatch.setattr(bench_threads, "own_processors", lambda: tuple(range(8)))
    places = bench_threads.other_places(threads, phone)
    assert [place.awake_us for place in places if not place.processors] == ([] if threads == 1 else [0, 1000])
    assert [place.processors for place in places if place.processors] == ([] if processors is None else [processors])


def test_a_system_that_places_no_threads_is_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_threads, "own_processors", tuple)
    assert all(not place.processors for place in bench_threads.other_places(4))

"""200 mutated files of each kind: every one is refused in one line or runs, within 2 s and a bound of memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fuzz.bases import Bases, make_bases
from fuzz.campaign import attempts
from fuzz.ways import WAYS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="tries run in forked processes with limits"),
]
MUTATIONS = 200


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return make_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("way", WAYS)
def test_no_mutated_file_crashes_hangs_or_takes_the_memory(bases: Bases, way: str) -> None:
    failed = [
        f"{way} {number}: {outcome.kind}: {outcome.told[:300]}"
        for number, outcome in attempts(bases, way, range(MUTATIONS))
        if outcome.failed
    ]
    assert failed == []


def test_a_mutation_is_a_function_of_its_number(bases: Bases, tmp_path: Path) -> None:
    from random import Random

    contents = []
    for number in range(2):
        place = tmp_path / str(number)
        place.mkdir()
        WAYS["config"](bases, Random("18/config/5"), place)
        contents.append({file.name: file.read_bytes() for file in (place / "in").iterdir()})
    assert contents[0] == contents[1]

"""What was kept of a device and is damaged: set aside, said once, and measured again; whatever is in it."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.runtime.bundle import Note
from skipstone.runtime.costs import CostCurve, ExitTimes
from skipstone.runtime.engine import BestThreads
from skipstone.runtime.engine.rounding import Rounding, RowRules

MADE_FOR = {"device": "cpu", "threads": 2}
FINDINGS: list[Any] = [
    CostCurve(rows=(1, 2, 4), contexts=(64,), seconds=((1.0, 1.5, 2.0),), spread=((0.1, 0.1, 0.2),)),
    Rounding(rules=RowRules(), price=0.0, attention_price=0.0001),
    BestThreads(threads=2, awake_us=200, processors=(0, 1)),
    ExitTimes(1.0, {2: 0.5}, {2: (0.5, 0.6, 0.9)}, {2: (0.4, 0.1)}),
]
DAMAGES = {
    "nothing": b"",
    "the first half": None,
    "nested too deep": b"[" * 100_000,
    "nested in a field": b"[" * 800 + b"]" * 800,
    "a number beyond all": b"1e999",
    "no number": b"NaN",
    "a number of 5,000 digits": b"9" * 5000,
    "another type": b'"fast"',
    "less than nothing": b"-1",
}


def note_of(finding: Any) -> Note[Any]:
    return Note(finding=type(finding), name="kept", what="finding", command="`tune`", made_for=MADE_FOR, key=MADE_FOR)


def damaged(content: bytes, damage: bytes | None) -> list[bytes]:
    """Return files: a whole one in place of the content, or one of its numbers after the other."""
    if damage is None:
        return [content[: len(content) // 2]]
    if damage in (b"", DAMAGES["nested too deep"]):
        return [damage]
    data, files = json.loads(content), []
    for path in _paths(data["finding"]):
        changed = copy.deepcopy(data)
        at = changed["finding"]
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = "HERE"
        files.append(json.dumps(changed).encode().replace(b'"HERE"', damage))
    return files


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in _paths(item, (*path, key))] or ([path] if path else [])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: type(finding).__name__)
def test_a_damaged_file_is_set_aside_said_once_and_made_again(tmp_path: Path, finding: Any, damage: str) -> None:
    note = note_of(finding)
    path = note.path(tmp_path)
    note.save(finding, path)
    for content in damaged(path.read_bytes(), DAMAGES[damage]):
        path.write_bytes(content)
        with pytest.warns(RuntimeWarning, match=r"is no finding: .*; it is left out, and lies at kept-\w+\.damaged"):
            assert note.find_or_make(tmp_path, lambda: finding) == finding
        assert path.with_suffix(".damaged").read_bytes() == content
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert note.find_or_make(tmp_path, lambda: pytest.fail("it was made again")) == finding


def test_a_file_of_a_later_version_stays(tmp_path: Path) -> None:
    note = note_of(FINDINGS[0])
    path = note.path(tmp_path)
    path.write_text(json.dumps({"format_version": 99, "new": True}))
    assert note.find(tmp_path) is None
    assert path.exists()


def test_what_was_disturbed_is_used_and_not_kept(tmp_path: Path) -> None:
    note = note_of(FINDINGS[0])
    found = note.find_or_make(tmp_path, lambda: FINDINGS[0], is_kept=lambda curve: False)
    assert found == FINDINGS[0]
    assert not note.path(tmp_path).exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(FINDINGS), st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_a_file_says_it_is_a_finding_or_left_out(finding: Any, data: st.DataObject) -> None:
    note = note_of(finding)
    fields = json.loads(json.dumps(asdict(finding)))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        note.path(Path(folder)).write_text(json.dumps({"format_version": 2, "made_for": MADE_FOR, "finding": fields}))
        kept = note.find(Path(folder))
    if isinstance(kept, CostCurve):
        costs = kept.costs(1000, max_rows=16)
        assert costs == sorted(costs) and all(cost > 0 for cost in costs[1:])
        assert kept.hopeful(0, max_rows=16)[0] == 0

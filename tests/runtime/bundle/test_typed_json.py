"""JSON as dataclasses: what `asdict` wrote is read again, and what has another shape is refused by the field's path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError, SkipstoneError
from skipstone.runtime.bundle import parse_json, read_typed


@dataclass(frozen=True)
class Leaf:
    size: float
    name: str | None

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ConfigError("size must not be 13")


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    by_depth: Mapping[int, tuple[int, float]]
    by_name: Mapping[str, Leaf]
    other: Mapping[str, object]
    is_old: bool = False


leaves = st.builds(Leaf, st.floats(0, 12), st.none() | st.text())
TREES = st.builds(
    Tree,
    st.lists(leaves).map(tuple),
    st.dictionaries(st.integers(0, 99), st.tuples(st.integers(), st.floats(allow_nan=False))),
    st.dictionaries(st.text(), leaves),
    st.dictionaries(st.text(), st.none() | st.integers() | st.lists(st.text())),
    st.booleans(),
)
WHOLE = {"leaves": [], "by_depth": {}, "by_name": {}, "other": {}, "is_old": True}


@given(tree=TREES)
def test_what_was_written_is_read_again(tree: Tree) -> None:
    assert read_typed(Tree, parse_json(json.dumps(asdict(tree))), name="the tree") == tree


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": {}}, "leaves: a list is wanted, found an object"),
        ({"leaves": [{"size": 1}]}, r"leaves\[0\]\.name is missing"),
        ({"leaves": [{"size": 1, "name": "", "x": 1}]}, r"leaves\[0\] has an unknown field 'x'"),
        ({"leaves": [{"size": 13, "name": ""}]}, r"leaves\[0\]: size must not be 13"),
        ({"by_name": {"a": {"size": "1", "name": ""}}}, r"by_name\['a'\]\.size: a number is wanted, found \"1\""),
        ({"by_depth": {"x": [1, 2]}}, "by_depth: a key must be a whole number, found 'x'"),
        ({"by_depth": {"1": [1, 2, 3]}}, r"by_depth\['1'\] has 3 items, 2 wanted"),
        ({"is_old": 1}, "is_old: true or false is wanted, found 1"),
        ({"new": 1}, "the tree has an unknown field 'new'"),
    ],
)
def test_the_field_that_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(SkipstoneError, match=f"^{message}$"):
        read_typed(Tree, WHOLE | change, name="the tree")


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(SkipstoneError, match=r"^the file is not JSON: "):
        parse_json(text)

"""Nobody outside of the devices knows one by name: the rest of the house asks what a device can do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import skipstone.cli
import skipstone.runtime
from skipstone.devices import Capability
from skipstone.devices.doors import AUTO, DOORS

NAMES = {*(door.name for door in DOORS), *(door.provider for door in DOORS)}
FOLDERS = (Path(skipstone.runtime.__file__).parent, Path(skipstone.cli.__file__).parents[1])
# Words that say something else than a device there: names of a target of `export`, of tables of operators by provider,
# and torch's own word for the memory that it loads weights into.
OTHER_MEANINGS = (
    "targets.py",
    "export_flags.py",
    "export.py",
    "options.py",
    "torch_bin.py",
    "placement",
    "check_target.py",
)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in FOLDERS:
        for path in folder.rglob("*.py"):
            if not {*OTHER_MEANINGS} & {*path.parts} and "devices" not in path.relative_to(folder).parts[:1]:
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def names_in(node: ast.AST) -> set[str]:
    return {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)} & NAMES


def compared_names(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Yield where names of devices are compared, or stand as keys or cases, with the names."""
    for node in ast.walk(tree):
        names = set[str]()
        if isinstance(node, ast.Compare):
            names = set().union(*(names_in(part) for part in (node.left, *node.comparators)))
        elif isinstance(node, ast.Dict):
            names = set().union(*(names_in(key) for key in node.keys if key is not None))
        elif isinstance(node, ast.match_case):
            names = names_in(node.pattern)
        if names:
            yield getattr(node, "lineno", 0), names


def test_no_file_compares_the_name_of_a_device() -> None:
    known = [(path.name, *found) for path, tree in sources() for found in compared_names(tree)]
    assert len([*sources()]) > 150
    assert known == []


@pytest.mark.parametrize("line", ["device.name == 'cuda'", "{'webgpu': 1}[name]", "name in ('cpu', 'openvino')"])
def test_the_scan_finds_such_lines(line: str) -> None:
    assert [*compared_names(ast.parse(line))]


def test_capabilities_are_asked_by_words_that_there_are() -> None:
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Capability":
                assert hasattr(Capability, node.attr), path
    assert AUTO not in NAMES

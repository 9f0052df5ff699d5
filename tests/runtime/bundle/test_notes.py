"""Notes: what was saved is read again, what was made for other weights is refused by name."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """A finding: figures by exit."""

    num_tokens: int
    speeds: dict[int, float] | None
    pair: tuple[int, float]

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ConfigError(f"num_tokens must be positive, found {self.num_tokens}")


RECIPE = {"name": "int4", "rules": [["head", 8]]}
MADE_FOR = {"recipe": RECIPE, "weights": "ab" * 32, "stages": (2, 4), "little_weights": None}
NOTE = Note(
    finding=Speeds,
    name="speeds",
    what="table of speeds",
    command="`skipstone tune`",
    made_for=MADE_FOR,
    key=("ab" * 32, RECIPE),
)
FOUND = Speeds(num_tokens=5, speeds=None, pair=(1, 0.5))


def test_what_was_saved_is_found_again_and_no_other_file_is_left(tmp_path: Path) -> None:
    path = NOTE.path(tmp_path / "new")
    assert NOTE.find(tmp_path / "new") is None and NOTE.kept(tmp_path / "new") is None
    assert NOTE.save(FOUND, path)
    assert [*path.parent.iterdir()] == [path]
    assert NOTE.read(path) == NOTE.kept(path.parent) == NOTE.find(path.parent) == FOUND
    assert NOTE.find(None) is None and NOTE.kept(None) is None


def test_the_name_of_the_file_depends_on_the_key_alone(tmp_path: Path) -> None:
    assert replace(NOTE, made_for={}).path(tmp_path) == NOTE.path(tmp_path)
    assert replace(NOTE, key="other").path(tmp_path) != NOTE.path(tmp_path)
    assert NOTE.path(tmp_path).name == "speeds-df5657defe2601dc.json", "files that are kept must be found again"


def test_a_finding_is_made_once(tmp_path: Path) -> None:
    assert NOTE.find_or_make(tmp_path, lambda: FOUND) == FOUND
    assert NOTE.find_or_make(tmp_path, lambda: pytest.fail("a file has it")) == FOUND
    NOTE.path(tmp_path).write_text("{")
    assert NOTE.find_or_make(tmp_path, lambda: replace(FOUND, num_tokens=6)).num_tokens == 6
    assert NOTE.read(NOTE.path(tmp_path)).num_tokens == 6
    assert NOTE.find_or_make(None, lambda: FOUND) == FOUND


@pytest.mark.parametrize("taken", ["a file in its place", "a name that is too long"])
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, taken: str) -> None:
    (tmp_path / "taken").touch()
    folder = tmp_path / ("taken" if taken == "a file in its place" else "x" * 300) / "notes"
    assert not NOTE.save(FOUND, NOTE.path(folder))
    assert NOTE.find_or_make(folder, lambda: FOUND) == FOUND
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "note.json").mkdir()
    assert not NOTE.save(FOUND, tmp_path / "note.json")
    assert os.listdir(tmp_path) == ["note.json"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"name": "int8"}, "weights": "cd" * 32}, "precision int8, the bundle has int4"),
        (
            {"recipe": {"name": "int4", "rules": []}},
            r'recipe {"name": "int4", "rules": \[\]}, the bundle has {"name": ',
        ),
        ({"weights": "cd" * 32}, "weights cdcdcdcdcdcd, the bundle has abababababab"),
        ({"little_weights": "ef" * 32}, "little weights efefefefefef, the bundle has none"),
        ({"stages": (4,)}, r"stages \[4\], the bundle has \[2, 4\]"),
    ],
)
def test_a_file_made_for_another_bundle_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    replace(NOTE, made_for=MADE_FOR | change).save(FOUND, tmp_path / "own.json")
    with pytest.raises(
        ConfigError, match=f"own.json was made for {message}.*; make one for this bundle with `skipstone"
    ):
        NOTE.read(tmp_path / "own.json")
    assert NOTE.find(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3, "unheard": 1}, "format 3 is of another version, this one reads 2"),
        ({"format_version": 0}, "format 0 is of another version"),
        ({"finding": {}}, "num_tokens is missing"),
        ({"finding": {"num_tokens": 0, "speeds": None, "pair": [1, 2.5]}}, "num_tokens must be positive, found 0"),
        ({"finding": {"num_tokens": 1, "speeds": None, "pair": [1]}}, "pair has 1 items, 2 wanted"),
        ({"finding": {"num_tokens": True, "speeds": None, "pair": [1, 2]}}, "num_tokens: a whole number is wanted"),
        ({"made_for": []}, "made_for: an object is wanted, found a list"),
        ({"more": 1}, "the file has an unknown field 'more'"),
    ],
)
def test_a_damaged_file_is_refused_with_the_field_that_is_wrong(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = NOTE.path(tmp_path)
    NOTE.save(FOUND, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=f"is no table of speeds: .*{message}.*; make it anew with `skipstone tune`"):
        NOTE.kept(tmp_path)
    assert NOTE.find(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b"\xff\xfe", b'{"format_version": 1}'])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.json (is no table of speeds: |was made for )"):
        NOTE.read(tmp_path / "own.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.json cannot be read: No such file or directory; make it with `skip"):
        NOTE.read(tmp_path / "own.json")


def test_a_file_of_before_is_read_whose_fields_say_what_it_was_made_for(tmp_path: Path) -> None:
    fields = {"format_version": 1, "num_tokens": 5, "speeds": None, "pair": [1, 0.5]}
    flat = {**fields, "recipe": RECIPE, "weights": "ab" * 32}
    nested = {**fields, "bundle": json.loads(json.dumps(MADE_FOR))}
    own = replace(NOTE, made_for={key: MADE_FOR[key] for key in ("recipe", "weights")})
    for note, content in ((own, flat), (NOTE, nested)):
        (tmp_path / "own.json").write_text(json.dumps(content))
        assert note.read(tmp_path / "own.json") == FOUND
    (tmp_path / "own.json").write_text(json.dumps(flat | {"weights": "cd" * 32}))
    with pytest.raises(ConfigError, match="was made for weights cdcdcdcdcdcd, the bundle has abababababab"):
        own.read(tmp_path / "own.json")

"""A type of cache that is chosen by its cost: the choice is told, kept, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle

from skipstone import load
from skipstone.bundled import notes_folder
from skipstone.errors import ConfigError
from skipstone.runtime.costs import CostCurve, costs_note
from skipstone.runtime.engine import Model

PROMPT = "def add(first"
CONTEXTS = (64, 240)


@pytest.fixture
def both(make_bundle: MakeBundle, tiny_checkpoint: Path) -> Path:
    """A bundle with an int8 cache that is the quicker one for one row, and fp32 for four, as its notes say."""
    bundle = make_bundle(tiny_checkpoint, cache="int8")
    for name, seconds in (("fp32", (2e-3, 3e-3)), ("int8", (1e-3, 4e-3))):
        model = Model.open(bundle, cache=name)  # type: ignore[arg-type]
        note = costs_note(model)
        assert note.save(CostCurve(rows=(1, 4), contexts=CONTEXTS, seconds=(seconds,) * 2), note.path(notes_folder()))
    return bundle


@pytest.mark.parametrize(
    ("decode", "cache", "rows"), [("plain", "int8", 1), ("ngram", "fp32", 4), ("model", "fp32", 4)]
)
def test_auto_takes_the_quicker_type_for_the_method_and_says_why(
    both: Path, decode: str, cache: str, rows: int
) -> None:
    model = load(both, cache="auto", expected_decode=decode, expected_tokens=100)
    assert model.runtime.sessions.cache_type == {"int8": "int8", "fp32": "float32"}[cache]
    assert model.cache_choice is not None
    assert model.cache_choice.told.startswith(f"cache {cache}: a call of {rows} row")
    wanted = load(both, cache=cache).generate(PROMPT, max_new_tokens=12, decode="plain")  # type: ignore[call-overload]
    assert model.generate(PROMPT, max_new_tokens=12, decode="plain").token_ids == wanted.token_ids


def test_the_default_chooses_nothing(both: Path) -> None:
    assert load(both).cache_choice is None
    with pytest.raises(ConfigError, match="expected_decode and expected_tokens are for cache='auto'"):
        load(both, expected_decode="plain")


def test_a_bundle_of_one_type_has_nothing_to_choose(tiny_checkpoint: Path, make_bundle: MakeBundle) -> None:
    choice = load(make_bundle(tiny_checkpoint), cache="auto").cache_choice
    assert choice is not None
    assert choice.told == "cache fp32: the bundle and the device have no other"


def test_generate_explains_the_choice_with_its_figures(cli: CommandLine, both: Path) -> None:
    args = ("generate", both, "-p", PROMPT, "-n", 4, "--decode", "plain", "--cache", "auto", "--stats")
    assert "cache int8: a call of 1 row behind 7 tokens takes 1 ms, 2 ms with fp32" in cli(*args).err


def test_tune_costs_shows_both_types_and_where_they_cross(cli: CommandLine, both: Path) -> None:
    said = cli("tune", "costs", both, "--seconds", 0.1).out
    assert [line for line in said.splitlines() if line.startswith("cache ")] == ["cache int8", "cache fp32"]
    assert said.count("1 row: ") == said.count("16 rows: ") == 1
    assert "quicker cache" not in cli("tune", "costs", both, "--seconds", 0.1, "--cache", "int8").out

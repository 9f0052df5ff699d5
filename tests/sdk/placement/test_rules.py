"""The tables beside the lists that the wheel of onnxruntime has, so that a new release is noticed."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime.tools.mobile_helpers.usability_checker as checker
import pytest

from skipstone.devices import DOORS
from skipstone.errors import ConfigError
from skipstone.placement.rules import SAME_AS, known_targets, rules_of

LISTS = {"nnapi": "nnapi_supported_ops.md", "coreml": "coreml_supported_mlprogram_ops.md"}
SPELLED = {"Argmax": "ArgMax"}  # as onnx writes it


def listed(file: str) -> dict[str, str]:
    """Return the operators of a list in the wheel, as the tables write them, with their notes."""
    text = (Path(checker.__file__).parent / file).read_text(encoding="utf-8")
    rows = re.findall(r"^\|(?:ai\.onnx[:.])?((?:com\.microsoft:)?[A-Za-z]+)\|(.*)\|$", text, re.MULTILINE)
    return {SPELLED.get(name, name): note.replace("<br/>", " ") for name, note in rows if name != "Operator"}


@pytest.mark.parametrize("target", LISTS)
def test_a_table_has_the_operators_and_the_notes_of_the_list_in_the_wheel(target: str) -> None:
    operators = rules_of(target).operators
    expected = listed(LISTS[target])
    assert sorted(operators) == sorted(expected), (
        f"{LISTS[target]} changed: write sdk/placement/rules/{target}.json anew"
    )
    assert {name: operators[name][0].note or "" for name in operators} == expected


@pytest.mark.parametrize("target", known_targets())
def test_a_table_says_its_provider_where_it_comes_from_and_when(target: str) -> None:
    rules = rules_of(target)
    providers = {door.name: door.provider for door in DOORS}
    assert rules.provider == providers[SAME_AS.get(target, target)]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", rules.date)
    assert rules.sources and all(rules.sources)


@pytest.mark.parametrize("target", known_targets())
def test_conditions_name_inputs_by_their_places_and_types_as_onnx_does(target: str) -> None:
    types = {"float", "float16", "bfloat16", "double", "bool", "int4", "uint4", "int8", "uint8", "int16", "uint16"}
    types |= {"int32", "uint32", "int64", "uint64"}
    for alternatives in rules_of(target).operators.values():
        for conditions in alternatives:
            assert all(place.isdigit() for place in (*conditions.types_of, *conditions.ranks))
            assert set(conditions.types or ()) <= types
            assert all(set(names) <= types for names in conditions.types_of.values())


def test_a_device_has_the_table_of_its_target() -> None:
    assert rules_of("cuda:1") is rules_of("cuda:1")
    assert rules_of("cuda:1").target == rules_of("cuda").target == "cuda"


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"target .npu. is not known; known are android-cpu, .*nnapi"):
        rules_of("npu")

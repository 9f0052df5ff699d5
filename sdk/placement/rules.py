"""Which operators an execution provider takes, and on which conditions: a table a target, dated, with its sources.

A table is a JSON file in `rules/`. `operators` are all that the provider takes, written `MatMul`, or with their domain
where that is not the ONNX standard: `com.microsoft:QuickGelu`. `defaults` are conditions of every operator; an operator
may change them, and a list of conditions is fulfilled where one of them is. They are the fields of `Conditions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from skipstone.errors import ConfigError

__all__ = ["SAME_AS", "Conditions", "Rules", "known_targets", "rules_of"]

SAME_AS: Final[Mapping[str, str]] = {"android-cpu": "cpu"}
"""Targets whose provider is that of another name: the Android package has the kernels of the CPU provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a node must fulfil beside its operator.

    `fixed`: all its inputs have sizes that are numbers. `embedded`: its weights stand in the graph's file. `most_rank`:
    no input has more dimensions. `types` of the first input, `types_of` others, by their place. `constant`: the inputs
    that must be weights. `ranks` of inputs, by their place, as a list. `attributes` with the values that are taken.
    `even`: pieces that it splits into are of one length. `refused`: why it is not taken after all. `note`: what the
    source says beside, which is not checked.
    """

    fixed: bool = False
    embedded: bool = False
    most_rank: int | None = None
    types: tuple[str, ...] | None = None
    types_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constant: tuple[int, ...] = ()
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    even: bool = False
    refused: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The table of a target. `complete` is false where its source lists less than the provider may take.

    `plug_in_options` are for the provider as a plug-in: what a function of its package returns, or a word.
    """

    target: str
    title: str
    provider: str
    package: str
    release: str
    date: str
    sources: tuple[str, ...]
    operators: Mapping[str, tuple[Conditions, ...]]
    complete: bool = True
    plug_in_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where the table comes from, in a few words."""
        return f"table of {self.title}, {self.release}, {self.date}"


def known_targets() -> tuple[str, ...]:
    """Return the targets that there is a table for, or whose provider every installation has."""
    tables = (item.name.removesuffix(".json") for item in files(__package__).joinpath("rules").iterdir())
    return tuple(sorted({*tables, *SAME_AS}))


@cache
def rules_of(target: str) -> Rules:
    """Return the table of a target or of a device such as cuda:1.

    Raises: ConfigError when there is none.
    """
    name = target.partition(":")[0]
    if name not in known_targets():
        raise ConfigError(f"target {target!r} is not known; known are {', '.join(known_targets())}")
    text = files(__package__).joinpath("rules", f"{SAME_AS.get(name, name)}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    defaults, operators = data.pop("defaults", {}), data.pop("operators")
    if isinstance(operators, list):
        operators = {name: {} for name in operators}
    for name, conditions in data.pop("conditions", {}).items():
        operators[name] = conditions
    data["sources"] = tuple(data["sources"])
    return Rules(**data, operators={name: _conditions(defaults, own) for name, own in operators.items()})


def _conditions(
    defaults: Mapping[str, Any], own: Mapping[str, Any] | list[Mapping[str, Any]]
) -> tuple[Conditions, ...]:
    """Return the alternatives of an operator, each with the defaults where it says nothing else."""
    return tuple(Conditions(**{**defaults, **one}) for one in (own if isinstance(own, list) else [own]))

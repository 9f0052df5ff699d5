"""JSON data as frozen dataclasses: every field is there, none is unknown, and each has its type."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from skipstone.errors import SkipstoneError

__all__ = ["DataError", "format_of", "parse_json", "read_typed"]

T = TypeVar("T")
JSON_NAMES: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class DataError(SkipstoneError):
    """JSON data that is not what a dataclass holds; it says which field is wrong."""


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Return the data in `text`. Raises: DataError when it is not JSON, or a field stands twice.

    `finite`: nor any number that is none, or too large.
    """
    number = _finite if finite else float
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file is not JSON: {error}") from error


def format_of(data: object) -> int:
    """Return the format version that `data` states, 0 where it states none."""
    version = data.get("format_version") if isinstance(data, dict) else None
    return version if type(version) is int else 0


def read_typed(kind: type[T], data: object, *, name: str) -> T:
    """Return JSON data as a dataclass of `kind`; `name` says in errors what the data is.

    A field may be a dataclass, tuple[X, ...], tuple[X, Y], Mapping[str, X], Mapping[int, X], X | None, a plain type or
    object. Raises: DataError with the path of the field that is wrong.
    """
    return cast(T, _Reader(name).read(kind, data, ""))


class _Reader:
    """Reads one value after the other; `where` is the path of a value, empty for the whole."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, kind: Any, value: Any, where: str) -> Any:
        """Return `value` as `kind`."""
        if kind is object:
            return value
        if is_dataclass(kind):
            return self._fields(kind, self._plain(dict, value, where), where)
        arguments = get_args(kind)
        if get_origin(kind) is UnionType:
            return None if value is None else self.read(arguments[0], value, where)
        if get_origin(kind) is tuple:
            return self._tuple(arguments, self._plain(list, value, where), where)
        if get_origin(kind) is Mapping:
            entries = self._plain(dict, value, where).items()
            return {
                self._key(arguments[0], key, where): self.read(arguments[1], item, f"{where}[{key!r}]")
                for key, item in entries
            }
        if kind is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        return self._plain(kind, value, where)

    def _fields(self, kind: Any, values: dict[str, object], where: str) -> Any:
        prefix = f"{where}." if where else ""
        kinds = _hints(kind)
        names = [field.name for field in fields(kind)]
        for name in names:
            if name not in values:
                raise DataError(f"{prefix}{name} is missing")
        for name in values:
            if name not in names:
                raise DataError(f"{where or self._name} has an unknown field {name!r}")
        arguments = {name: self.read(kinds[name], values[name], prefix + name) for name in names}
        try:
            return kind(**arguments)
        except SkipstoneError as error:
            raise DataError(f"{where}: {error}" if where else str(error)) from error

    def _tuple(self, kinds: tuple[Any, ...], items: list[object], where: str) -> tuple[Any, ...]:
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(items)
        if len(kinds) != len(items):
            raise DataError(f"{where} has {len(items)} items, {len(kinds)} wanted")
        return tuple(
            self.read(kind, item, f"{where}[{number}]")
            for number, (kind, item) in enumerate(zip(kinds, items, strict=True))
        )

    def _key(self, kind: type, key: str, where: str) -> str | int:
        if kind is str:
            return key
        if not (key.isascii() and key.isdigit()):
            raise DataError(f"{where}: a key must be a whole number, found {key!r}")
        return int(key)

    def _plain(self, kind: type, value: Any, where: str) -> Any:
        if type(value) is not kind:
            shown = JSON_NAMES[type(value)] if isinstance(value, list | dict) else json.dumps(value)[:60]
            raise DataError(f"{where or self._name}: {JSON_NAMES[kind]} is wanted, found {shown}")
        return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


def _unique_keys(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    entries: dict[str, object] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"the field {key!r} stands twice")
        entries[key] = value
    return entries

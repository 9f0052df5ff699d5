"""Options have the types that their annotations say, checked where their values are, before any work.

A whole number may stand for any number, a number of NumPy for one of Python, a list for a tuple; True is no number.
None means "not set", so it gives the default. This module imports the errors only, so every part may use it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Callable as CallableType
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from skipstone.errors import ConfigError

__all__ = ["check_fields", "checked", "checks_arguments", "shown"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "truth values"),
    str: ("a string", "strings"),
    Path: ("a path", "paths"),
    NoneType: ("", ""),  # what is not set need not be told
}
_LONGEST_SHOWN = 60


def check_fields(options: object) -> None:
    """Give each field of a frozen dataclass its type, and its default where it is None; for `__post_init__`.

    Raises: ConfigError with the name of the field.
    """
    owner: Any = type(options)
    kinds = _kinds(owner)
    for field in fields(options):  # type: ignore[arg-type]
        value, kind = getattr(options, field.name), kinds[field.name]
        if value is None and not _takes_none(kind):
            value = field.default if field.default_factory is MISSING else field.default_factory()
        object.__setattr__(options, field.name, checked(field.name, value, kind))


def checks_arguments(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the function, which then raises ConfigError for an argument that has not the type of its annotation."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        kinds = _kinds(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}{_nearest(kwargs, signature.parameters)}") from None
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            if parameter.kind is not parameter.VAR_KEYWORD:
                bound.arguments[name] = _argument(parameter, value, kinds.get(name, Any))
        return function(*bound.args, **bound.kwargs)

    return call


def _nearest(given: Iterable[str], known: Mapping[str, object]) -> str:
    """Return the question whether another argument was meant, where one is near."""
    nearest = [match for name in given if name not in known for match in difflib.get_close_matches(name, known, n=1)]
    return f"; did you mean {', '.join(nearest)}?" if nearest else ""


def _argument(parameter: inspect.Parameter, value: object, kind: Any) -> Any:
    if value is None and not _takes_none(kind) and parameter.default is not parameter.empty:
        return parameter.default
    return checked(parameter.name, value, kind)


def checked(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as `kind`, an annotation; what is no type of an option is taken as it is.

    Raises: ConfigError with the name and both.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _one_of(name, _path_or_other(name, value) if Path in get_args(kind) else value, kind)
    if kind in (int, float, bool, str, Path, NoneType):
        return _plain(name, value, kind)
    if origin is Literal and not (isinstance(value, str) and value in get_args(kind)):
        raise _wrong(name, value, kind)
    if origin is CallableType and not callable(value):
        raise ConfigError(f"{name} must be a function, got {shown(value)}")
    if is_dataclass(kind) and isinstance(kind, type) and not isinstance(value, kind):
        raise _wrong(name, value, kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(name, value, kind)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _items(name, value, kind)
    return value


def _one_of(name: str, value: Any, kind: Any) -> Any:
    for choice in get_args(kind):
        try:
            return checked(name, value, choice)
        except ConfigError:
            continue
    raise _wrong(name, value, kind)


def _plain(name: str, value: Any, kind: type) -> Any:
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return value if isinstance(value, int | float) and type(value).__module__ == "builtins" else float(value)
    if kind is bool and type(value).__name__ in ("bool", "bool_"):  # NumPy's has either name
        return bool(value)
    if kind is Path and isinstance(value, str | os.PathLike):
        return Path(_path_or_other(name, value))
    if kind not in (int, float, bool, Path) and isinstance(value, kind):
        return value
    raise _wrong(name, value, kind)


def _path_or_other(name: str, value: Any) -> Any:
    """Return the value; raises ConfigError for a string that can be no path."""
    try:
        is_path = not isinstance(value, str) or (value and b"\0" not in os.fsencode(value))
    except UnicodeEncodeError:  # half a character
        is_path = False
    if not is_path:
        raise ConfigError(f"{name} {shown(value)} can be no path")
    return value


def _items(name: str, value: Any, kind: Any) -> Any:
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping) or not isinstance(value, Iterable):
        raise _wrong(name, value, kind)
    try:
        items = tuple(value)
    except TypeError as error:  # an array of no dimension
        raise _wrong(name, value, kind) from error
    item_kind = get_args(kind)[0]
    return tuple(checked(f"{name}[{place}]", item, item_kind) for place, item in enumerate(items))


def _mapping(name: str, value: Any, kind: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, kind)
    key_kind, item_kind = get_args(kind)
    return {
        checked(f"a key of {name}", key, key_kind): checked(f"{name}[{shown(key)}]", item, item_kind)
        for key, item in value.items()
    }


def _takes_none(kind: Any) -> bool:
    return kind in (Any, object, NoneType) or NoneType in get_args(kind)


@functools.cache
def _kinds(owner: Any) -> Mapping[str, Any]:
    """Return the annotations of a class or function by name; Any for one that names what only type checkers import."""
    kinds: dict[str, Any] = {}
    for part in reversed(owner.__mro__) if isinstance(owner, type) else (owner,):
        names = vars(sys.modules[part.__module__])
        for name, kind in getattr(part, "__annotations__", {}).items():
            try:
                kinds[name] = eval(kind, dict(names)) if isinstance(kind, str) else kind
            except NameError:
                kinds[name] = Any
    return kinds


def _wrong(name: str, value: object, kind: Any) -> ConfigError:
    single = "the single string " if isinstance(value, str) and _is_list(kind) else ""
    return ConfigError(f"{name} must be {_words(kind)}, got {single}{shown(value)}")


def _is_list(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping)


def _words(kind: Any, *, many: bool = False) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(word for choice in arguments for word in _choices(choice, many=many) if word))
        return _joined([word for word in words if word != "a path" or "a string" not in words])
    if origin is Literal:
        return _joined(_choices(kind, many=many))
    if _is_list(kind):
        return f"a list of {_words(arguments[0], many=True)}"
    if origin is CallableType:
        return "functions" if many else "a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of {' to '.join(_words(argument, many=True) for argument in arguments)}"
    return _WORDS[kind][many] if kind in _WORDS else f"{kind.__name__}{' objects' if many else ''}"


def _choices(kind: Any, *, many: bool) -> list[str]:
    return [*map(str, get_args(kind))] if get_origin(kind) is Literal else [_words(kind, many=many)]


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def shown(value: object) -> str:
    """Return the value in one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # another's object
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."

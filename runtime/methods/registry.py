"""Methods by name: ours, each in a file of its own, and those of other packages."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import walk_packages

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import Drafter
from skipstone.runtime.methods.method import DrafterContext, Method

__all__ = ["GROUP", "approximate_methods", "known_methods", "method_named", "open_drafter", "registered_drafters"]

GROUP = "skipstone.drafters"
PACKAGE = "skipstone.runtime.methods"


@functools.cache  # looking through all installed packages takes milliseconds
def known_methods() -> Mapping[str, Method]:
    """Return all methods by name: `plain` and `auto`, drafters, the cheapest first, then those that only write.

    Raises: ConfigError when two have the same name.
    """
    methods: dict[str, Method] = {}
    origins: dict[str, str] = {}
    for origin, method in (*_our_methods(), *_other_methods()):
        if method.name in methods:
            raise ConfigError(
                f"the drafter {method.name} is registered twice, by {origins[method.name]} and {origin}: "
                "uninstall one of the two packages"
            )
        methods[method.name], origins[method.name] = method, origin
    return dict(sorted(methods.items(), key=lambda item: _place(item[1])))


def _place(method: Method) -> tuple[bool, bool, bool, float, str]:
    rank = math.inf if method.auto_rank is None else method.auto_rank
    return method.only_writes, method.is_drafter, method.joins is not None, rank, method.name


def _our_methods() -> Iterator[tuple[str, Method]]:
    """Yield the row `METHOD` of each file that has one, with the file's module."""
    for module in walk_packages(import_module(PACKAGE).__path__, f"{PACKAGE}."):
        method = getattr(import_module(module.name), "METHOD", None)
        if not module.ispkg and isinstance(method, Method):
            yield module.name, method


def _other_methods() -> Iterator[tuple[str, Method]]:
    """Yield the methods of other packages: a row, or a factory that takes a DrafterContext and returns a Drafter."""
    for entry in entry_points(group=GROUP):
        yield entry.value, _loaded(entry)


def _loaded(entry: EntryPoint) -> Method:
    """Return the row of an entry point; one that cannot be loaded says so when it is opened, and disturbs no other."""
    try:
        value = entry.load()
    except Exception as error:  # whatever is wrong with another package
        reason = str(error)

        def refuse(context: DrafterContext) -> Drafter:
            raise ConfigError(f"the drafter {entry.name} cannot be loaded from {entry.value}: {reason}")

        return Method(name=entry.name, drafts=refuse)
    return value if isinstance(value, Method) else Method(name=entry.name, drafts=value)


def method_named(name: str) -> Method:
    """Return a method. Raises: ConfigError for an unknown name."""
    known = known_methods()
    if name not in known:
        raise ConfigError(f"decoding method {name!r} is not known; known are {', '.join(known)}")
    return known[name]


def registered_drafters() -> Mapping[str, Method]:
    """Return the methods that draft and can be joined, by name."""
    return {name: method for name, method in known_methods().items() if method.is_drafter}


def approximate_methods() -> Mapping[str, Method]:
    """Return the methods whose text may differ from plain decoding's, by name."""
    return {name: method for name, method in known_methods().items() if method.writes is not None}


def open_drafter(name: str, context: DrafterContext) -> Drafter:
    """Return the drafter `name` for one text. Raises: ConfigError for an unknown name, or for one that cannot run."""
    return method_named(name).draft(context)

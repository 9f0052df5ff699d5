"""What a model is called: a path, a bundled model or a hub id, with a revision and a precision behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from skipstone.bundled import BUNDLED
from skipstone.errors import BundleError

__all__ = ["ModelName", "is_hub_id", "unknown"]

# As runtime/bundle and exporters/options.py say them, whose imports a shell's completion cannot wait for.
MANIFEST_NAME: Final = "skipstone.json"
PRECISIONS: Final = ("int4", "int4-fast", "int8", "fp32")
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PARTS: Final = re.compile(r"(?P<place>.+?)(?:@(?P<revision>[^:@]+))?(?::(?P<precision>[A-Za-z0-9-]+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A place as it was typed: `PLACE[@REVISION][:PRECISION]`; empty where nothing is said."""

    place: str
    revision: str = ""
    precision: str = ""

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """Take a name apart; what exists as a path is one, whatever it contains.

        Raises: BundleError for a revision of what is not on the hub, and for a precision that is not known.
        """
        parts = PARTS.fullmatch(name)
        if name in BUNDLED or parts is None or _exists(Path(name)):
            return cls(name)
        place, revision, precision = (text or "" for text in parts.group("place", "revision", "precision"))
        if not (place in BUNDLED or _exists(Path(place)) or is_hub_id(place)):
            return cls(name)
        if revision and (place in BUNDLED or _exists(Path(place))):
            raise BundleError(f"{place} is not on the hub, so it has no revision {revision}: leave @{revision} out")
        if precision:
            _require_precision(precision, place)
        return cls(place, revision, precision)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null in it
        return False


def _require_precision(precision: str, place: str) -> None:
    if precision not in PRECISIONS:
        near = get_close_matches(precision, PRECISIONS, n=1)
        meant = f"did you mean {place}:{near[0]}? " if near else ""
        raise BundleError(f"{precision} is no precision of {place}: {meant}known are {', '.join(PRECISIONS)}")


def is_hub_id(name: str) -> bool:
    """Whether a name may be one on the hub: owner/name, whose owner is no folder here."""
    return HUB_ID.fullmatch(name) is not None and not _exists(Path(name.partition("/")[0]))


def unknown(name: str) -> str:
    """Return in one line what could have been meant by a name that is none."""
    near = get_close_matches(name, [*BUNDLED, *_beside(Path(name))], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"there is no {name} here: {meant}give a bundle folder, a checkpoint folder, a GGUF file, a hub id such as "
        "owner/name, or the word pebble; to try one: skipstone generate pebble -p Hello"
    )


def _beside(path: Path) -> Iterator[str]:
    """Yield the paths of bundles and GGUF files in the folder where something was looked for."""
    with suppress(OSError, ValueError):
        for near in path.parent.iterdir():
            if near.suffix.lower() == ".gguf" or (near / MANIFEST_NAME).is_file():
                yield str(near)

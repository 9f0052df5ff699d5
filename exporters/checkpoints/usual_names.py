"""Tensors by the names that transformers gives them, where a program saved a model inside another.

`torch.compile` puts `_orig_mod.` in front, DataParallel `module.`, PEFT `base_model.model.`, FSDP words in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints.tensors import StoredTensors
from skipstone.exporters.families import first_names

__all__ = ["with_usual_names"]

_INSIDE: Final = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def with_usual_names(tensors: StoredTensors, config: Mapping[str, Any]) -> tuple[StoredTensors, tuple[str, ...]]:
    """Return the tensors without what wrappers put into their names, and what is to be said about that.

    Raises: CheckpointError where two tensors get one name.
    """
    inside = {name: _INSIDE.sub("", name) for name in tensors.names()}
    front = _front(inside.values(), first_names(config))
    renamed = {name: short.removeprefix(front) for name, short in inside.items()}
    words = {match[0] for name in inside for match in _INSIDE.finditer(name)} | ({front} if front else set())
    if not words:
        return tensors, ()
    if len({*renamed.values()}) < len(renamed):
        raise CheckpointError(
            f"without {', '.join(sorted(words))} two tensors have the same name: save the model alone"
        )
    said = (
        f"tensors are read without {' and '.join(map(repr, sorted(words)))} in their names, which a wrapper put there"
    )
    return tensors.renamed(renamed), (said,)


def _front(names: Iterable[str], known: tuple[str, ...]) -> str:
    """What stands before the usual names; nothing where they are there as they should be, or several models are."""
    names = [*names]
    if not {*names}.isdisjoint(known):
        return ""
    for first in known:
        fronts = {name.removesuffix(first) for name in names if name.endswith(f".{first}")}
        if fronts:
            return fronts.pop() if len(fronts) == 1 else ""
    return ""

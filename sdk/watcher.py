"""Who hears how an export goes: the caller in Python, or the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["Watcher"]


class Watcher:
    """Hears how an export goes; by itself it does nothing with that."""

    def remark(self, line: str) -> None:
        """Hear of something that is not as asked for, or of what was found."""

    @contextmanager
    def searching(self, title: str) -> Iterator[Callable[[float], None]]:
        """Give what hears the share that is done, while something is searched for before the bundle is written."""
        yield lambda share: None

    @contextmanager
    def writing(self, plan: ExportPlan | WrappedPlan) -> Iterator[Callable[[int], None]]:
        """Give what hears how many parameters were read since the last call, while the bundle is written."""
        yield lambda num_parameters: None

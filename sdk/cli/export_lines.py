"""How an export goes, on the terminal: remarks and a bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skipstone.cli.terminal import notes, progress_bar
from skipstone.watcher import Watcher

if TYPE_CHECKING:
    from skipstone.exporters import ExportPlan
    from skipstone.exporters.optimum import WrappedPlan

__all__ = ["ExportLines"]


class ExportLines(Watcher):
    """Shows remarks and progress on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def remark(self, line: str) -> None:
        notes(quiet=self._quiet).print(line)

    @contextmanager
    def searching(self, title: str) -> Iterator[Callable[[float], None]]:
        from rich.progress import TaskProgressColumn

        with progress_bar(title, total=1.0, count=TaskProgressColumn(), quiet=self._quiet) as (progress, task):
            yield lambda share: progress.update(task, completed=share)

    @contextmanager
    def writing(self, plan: ExportPlan | WrappedPlan) -> Iterator[Callable[[int], None]]:
        from rich.progress import DownloadColumn

        total, bytes_each = plan.work
        with progress_bar("exporting", total=total, count=DownloadColumn(), quiet=self._quiet) as (progress, task):
            yield lambda count: progress.advance(task, count * bytes_each)
            progress.update(task, completed=total)

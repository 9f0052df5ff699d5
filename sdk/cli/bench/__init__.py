"""`skipstone bench`: speed."""

from __future__ import annotations

from skipstone.cli.bench.group import bench

__all__ = ["bench"]

"""`skipstone eval`: quality."""

from __future__ import annotations

from skipstone.cli.evaluate.group import evaluate

__all__ = ["evaluate"]

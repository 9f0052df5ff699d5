"""The command line: one module per command, `main` runs them."""

from skipstone.cli.app import main

__all__ = ["main"]

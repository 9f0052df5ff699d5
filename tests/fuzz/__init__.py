"""Mutated files of every kind, each tried in a process of its own; see docs/security.md."""

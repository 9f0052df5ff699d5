"""Activation sparsity: thresholds and top-k of TEAL, CATS, CHESS and LaRoSA, judged for quality by one tool."""

from __future__ import annotations

from skipstone.sparsity.beside import Beside, BundleBeside, besides
from skipstone.sparsity.judging import AT, SparsityOptions, SparsityRow, judge_sparsity

__all__ = ["AT", "Beside", "BundleBeside", "SparsityOptions", "SparsityRow", "besides", "judge_sparsity"]

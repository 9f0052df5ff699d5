"""Where the channels of attention heads stand: in the rows of a checkpoint, and in the padded heads of the kernel."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["head_order", "kernel_head_size", "rows_of_heads"]

Rows: TypeAlias = NDArray[np.int64]


def kernel_head_size(head_size: int) -> int:
    """Return the next head size that GroupQueryAttention takes with rotary inside: a multiple of 16."""
    return -(-head_size // 16) * 16


def head_order(size: int, turning: int) -> Rows:
    """Return for each channel of a padded head the channel [kernel_head_size(size)] to take, -1 for zeros.

    Rotary turns channel i of the first half of a head with channel i of the second. So the `turning` channels go to
    the start of both halves, and what does not turn, or is not there, fills the rest.
    """
    half, pairs = kernel_head_size(size) // 2, turning // 2
    rest = np.arange(turning, size)
    first, second = np.split(rest, [min(half - pairs, len(rest))])
    halves = [np.concatenate([np.arange(pairs), first]), np.concatenate([np.arange(pairs, turning), second])]
    return np.concatenate([np.pad(part, (0, half - len(part)), constant_values=-1) for part in halves])


def rows_of_heads(starts: Rows, order: Rows) -> Rows:
    """Return the rows of heads that begin at `starts`, each in the order of channels `order`; -1 stays."""
    return np.where(order < 0, -1, starts[:, None] + order).ravel()

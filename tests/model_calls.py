"""Watching what a model is asked to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.runtime.engine import BoundCall, Feed

Watch = Callable[[BoundCall, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], object]
"""(call, token_ids [B, T], cached lengths [B], logits [R, V]); it may change the logits."""


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let `watch` see every model call that runs inside."""
    run = BoundCall.run

    def watched(call: BoundCall, feed: Feed) -> NDArray[np.float32]:
        logits = run(call, feed)
        watch(call, feed.token_ids[:, :, 0], feed.lengths, logits)
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundCall, "run", watched)
        yield

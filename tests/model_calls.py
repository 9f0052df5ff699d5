"""Watching what a model is asked to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipstone.runtime.engine import BoundCall

Watch = Callable[[BoundCall, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], object]
"""(call, token_ids [B, T], cached lengths [B], logits [R, V]); it may change the logits."""


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let `watch` see every model call that runs inside."""
    run = BoundCall.run

    def watched(
        call: BoundCall, token_ids: NDArray[np.int64], lengths: NDArray[np.int64], **options: Any
    ) -> NDArray[np.float32]:
        logits = run(call, token_ids, lengths, **options)
        watch(call, token_ids, lengths, logits)
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundCall, "run", watched)
        yield

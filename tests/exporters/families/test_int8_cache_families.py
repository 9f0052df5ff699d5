"""An int8 cache in every family: near the fp32 one, and a row has the same bits however its tokens are fed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeBundle
from numpy.typing import NDArray
from test_families import CASES, FIRST_OF_FAMILY, TOKEN_IDS, make_case  # noqa: F401

from skipstone.runtime.engine import Draft, Model

# Beside the first case of each family: padded heads, few or many heads, windows, biases, and long texts.
OTHERS = ("llama, heads of 20", "llama, heads of 24", "llama, five heads share one", "mistral, window of 4")


def logits_in(model: Model, sizes: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits [T, V] of TOKEN_IDS, fed in calls of so many rows."""
    sequence, rows, start = model.new_sequence(exact=model.manifest.exact), list[NDArray[np.float32]](), 0
    for size in sizes:
        piece = [*TOKEN_IDS[start : start + size]]
        sequence.append(piece[:1])
        rows.append(sequence.extend(Draft.chain(piece[1:], source="text")).copy())
        if len(piece) > 1:
            sequence.commit(piece[1:])
        start += size
    return np.concatenate(rows)


@pytest.mark.parametrize("name", [*FIRST_OF_FAMILY.values(), *OTHERS])
def test_an_int8_cache_is_near_the_fp32_one_and_its_rows_do_not_depend_on_their_call(
    name: str,
    make_case: Callable[[str], Path],  # noqa: F811
    make_bundle: MakeBundle,
) -> None:
    exits = "auto" if "auto" in CASES[name].exits else "none"
    bundle = make_bundle(make_case(name), precision="fp32", exits=exits, cache="int8")
    model, plain = Model.open(bundle), Model.open(bundle, cache="fp32")
    assert model.sessions.cache_type == "int8"
    assert {str(buffer.dtype) for buffer in model.new_cache(context_length=2)} == {"int8"}
    whole, wanted = logits_in(model, [len(TOKEN_IDS)]), logits_in(plain, [len(TOKEN_IDS)])
    near = [np.corrcoef(*rows)[0, 1] for rows in zip(whole, wanted, strict=True)]
    assert np.median(near) > 0.98  # some rows of random weights, and of routers, flip
    assert not np.array_equal(whole, wanted)
    ways = ([1] * len(TOKEN_IDS), [3, 1, 8, 1, 2, 15], [17, 13]) if model.manifest.exact else ()
    for sizes in ways:
        assert np.array_equal(logits_in(model, sizes), whole), sizes

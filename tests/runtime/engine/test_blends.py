"""Positions that are blends of tokens: the graph sums embeddings, each times its weight."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from skipstone.errors import CacheFull, ConfigError
from skipstone.runtime.engine import Blends, Draft, Model, Sequence

Rows = NDArray[np.float32]
PROMPT = [5, 6, 7, 300, 8]
TOKENS, WEIGHTS = [20, 30, 40], [0.5, 0.3, -0.2]
BLEND = 306  # a row of the table that no text has


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose last token has the embedding that the blend of TOKENS must have."""
    folder = tmp_path_factory.mktemp("blend") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    table[BLEND] = np.asarray(WEIGHTS, np.float32) @ table[TOKENS]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Model.open(make_bundle(folder, exits="auto"))


def prefilled(model: Model, token_ids: list[int] = PROMPT, **options: Any) -> Sequence:
    sequence = model.new_sequence(**options)
    sequence.append(token_ids)
    sequence.extend(Draft.empty())
    return sequence


def fed(model: Model, token_ids: list[int], *, exact: bool = False) -> Rows:
    """Return logits [V] after tokens that are fed as text."""
    sequence = model.new_sequence(exact=exact)
    sequence.append(token_ids)
    return sequence.extend(Draft.empty())[0].copy()


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_a_one_hot_blend_is_the_token(model: Model, width: int, exact: bool) -> None:
    for place in range(width):
        token_ids, weights = np.arange(60, 60 + width), np.eye(width)[place]
        token_ids[place] = 21
        found = prefilled(model, exact=exact).extend_by_blends(Blends.of([token_ids], [weights])).copy()
        np.testing.assert_allclose(found[0], fed(model, [*PROMPT, 21], exact=exact), rtol=0, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_blend_has_the_embedding_that_is_computed_by_hand(model: Model, exact: bool) -> None:
    sequence = prefilled(model, exact=exact)
    found = sequence.extend_by_blends(Blends.of([TOKENS], [WEIGHTS]))[0].copy()
    wanted = fed(model, [*PROMPT, BLEND], exact=exact)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert np.abs(found - fed(model, [*PROMPT, TOKENS[0]], exact=exact)).max() > 0.1
    after = sequence.extend_by_blends(Blends.of([[9, 50], TOKENS[1:]], [[1, 0], [0, 1]])).copy()
    for row, token_ids in enumerate(([9], [9, TOKENS[2]])):
        wanted = fed(model, [*PROMPT, BLEND, *token_ids], exact=exact)
        np.testing.assert_allclose(after[row], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "go_on",
    [
        lambda sequence: sequence.extend(Draft.empty())[0],
        lambda sequence: (sequence.commit([11]), sequence.extend(Draft.empty()))[1][0],
        lambda sequence: (sequence.append([11]), sequence.extend(Draft.chain([4], source="")))[1][0],
        lambda sequence: (sequence.rollback(3), sequence.extend(Draft.empty()))[1][0],
        lambda sequence: sequence.fork().extend(Draft.empty())[0],
        lambda sequence: (sequence.append([11]), sequence.peek([8, 11], num_stages=1), sequence.extend(Draft.empty()))[
            2
        ][0],
    ],
    ids=["extend", "commit", "append", "rollback", "fork", "peek"],
)
def test_whatever_comes_after_them_forgets_them(model: Model, go_on: Callable[[Sequence], Rows]) -> None:
    sequence = prefilled(model)
    for _ in range(3):
        sequence.extend_by_blends(Blends.of([TOKENS], [WEIGHTS]))
    found = go_on(sequence).copy()
    sequence.check()
    np.testing.assert_allclose(found, fed(model, sequence.token_ids), rtol=0, atol=1e-5)
    sequence = prefilled(model, sequence.token_ids)
    again = sequence.extend_by_blends(Blends.of([[21]], [[1]]))[0].copy()
    np.testing.assert_allclose(again, fed(model, [*sequence.token_ids, 21]), rtol=0, atol=1e-5)


def test_what_is_no_blend_or_has_no_place_is_refused(model: Model) -> None:
    for token_ids, weights in (([1], [1]), ([[1]], [[1, 2]]), ([[]], [[]])):
        with pytest.raises(ConfigError, match="token ids and weights of one shape"):
            Blends.of(token_ids, weights)
    with pytest.raises(ConfigError, match="no finite number"):
        Blends.of([[1]], [[np.nan]])
    blends = Blends.of([[1, 2]], [[0.5, 0.5]])
    sequence = prefilled(model, context_length=len(PROMPT) + 1)
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        sequence.extend_by_blends(Blends.of([[307]], [[1]]))
    sequence.extend_by_blends(blends)
    with pytest.raises(CacheFull):
        sequence.extend_by_blends(blends)
    for draft in (None, Draft.chain([3], source="")):
        sequence = prefilled(model)
        sequence.append([4]) if draft is None else sequence.extend(draft)
        with pytest.raises(ConfigError, match="extend by an empty draft first"):
            sequence.extend_by_blends(blends)


def test_weights_of_one_token_do_not_stay_for_the_next(model: Model) -> None:
    sequence = prefilled(model)
    sequence.extend_by_blends(Blends.of([[21]], [[0.25]]))
    sequence.commit([11])
    np.testing.assert_allclose(sequence.extend(Draft.empty())[0].copy(), fed(model, [*PROMPT, 11]), rtol=0, atol=1e-5)

"""Ways to carve one FFN, on neurons of which some plainly belong together."""

from __future__ import annotations

import numpy as np
import pytest

from skipstone.carve.activations import FfnActivations
from skipstone.carve.clusters import CLUSTERINGS
from skipstone.carve.errors import ErrorTable, candidates, output_error
from skipstone.carve.routers import ROUTERS
from skipstone.exporters.families import CarvedFfn

NUM_TOKENS, HIDDEN, WIDTH, EXPERTS = 600, 24, 8, 4


@pytest.fixture(scope="module")
def text() -> FfnActivations:
    """Four topics, each with a direction of the input and eight neurons that see it; four neurons always speak."""
    rng = np.random.default_rng(0)
    topics = rng.integers(EXPERTS, size=NUM_TOKENS)
    directions = np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))[0][:EXPERTS]
    x = 3 * directions[topics] + 0.1 * rng.standard_normal((NUM_TOKENS, HIDDEN))
    place = np.concatenate([np.repeat(np.arange(EXPERTS), WIDTH), np.full(4, EXPERTS)])
    order = rng.permutation(len(place))
    rows = np.vstack([directions, directions.sum(axis=0)])[place[order]]
    gate, up = rows + 0.05 * rng.standard_normal(rows.shape), rows
    down = rng.standard_normal((HIDDEN, len(place)))
    given = x @ gate.T
    inner = given / (1 + np.exp(-given)) * (x @ up.T)
    arrays = (x, inner, gate, up, down)
    return FfnActivations(**dict(zip(("x", "inner", "gate", "up", "down"), map(np.float32, arrays), strict=True)))


FFN = CarvedFfn(num_routed=EXPERTS, width=WIDTH)


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("router", ROUTERS)
def test_each_neuron_is_in_one_place(text: FfnActivations, clustering: str, router: str) -> None:
    clusters = ROUTERS[router](text, CLUSTERINGS[clustering](text, FFN)).clusters
    neurons = np.concatenate([clusters.experts.ravel(), clusters.shared])
    assert np.array_equal(np.sort(neurons), np.arange(text.inner.shape[1]))


def test_topics_are_found_and_routed_to(text: FfnActivations) -> None:
    known, other = text.tokens(slice(100, None)), text.tokens(slice(100))
    errors = {way: output_error(other, router, 1) for way, router in candidates(known, FFN)}
    assert len(errors) == len(CLUSTERINGS) * len(ROUTERS)
    assert min(errors.values()) < 0.01
    assert errors["sizes/fit"] < 0.05


def test_with_all_experts_there_is_no_error(text: FfnActivations) -> None:
    for _, router in candidates(text, FFN):
        assert output_error(text, router, EXPERTS) == 0


def test_a_way_is_compared_where_it_fits_all_layers() -> None:
    table = ErrorTable(({"a": 0.2, "b": 0.1}, {"a": 0.4}))
    assert table.means == {"a": pytest.approx(0.3)}
    assert str(table) == "output error a 30.0 %"

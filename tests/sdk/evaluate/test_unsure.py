"""The entropy at which a model is as often wrong as right."""

from __future__ import annotations

import numpy as np
import pytest
from texts import words

from skipstone.errors import ConfigError
from skipstone.evaluate.unsure import entropy_border, logistic_border, scored_windows
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.sampling import entropy_nats


@pytest.mark.parametrize(("border", "slope"), [(1.0, 3.0), (2.5, 1.0)])
def test_the_border_is_found_again(border: float, slope: float) -> None:
    random = np.random.default_rng(0)
    entropies = random.uniform(0, 6, size=20_000)
    wrong = random.random(20_000) < 1 / (1 + np.exp(-slope * (entropies - border)))
    assert logistic_border(entropies, wrong) == pytest.approx(border, abs=0.1)


def test_a_clear_cut_lies_between_both_kinds_and_no_cut_is_at_an_end() -> None:
    entropies = np.linspace(0, 4, 201)
    assert logistic_border(entropies, entropies > 1.99) == pytest.approx(1.99, abs=0.03)
    assert logistic_border(entropies, np.zeros(201, bool)) > 4
    assert logistic_border(entropies, np.ones(201, bool)) == 0
    assert logistic_border(entropies, entropies < 3.9) == 0
    assert logistic_border(entropies, entropies < 0.1) == 16


def test_it_is_that_of_the_texts_token_by_token(tiny: Model) -> None:
    text, counts = words(count=300), list[int]()
    (window,) = scored_windows(tiny.manifest, tiny.tokenizer, [text], max_tokens=200)
    sequence = tiny.new_sequence()
    sequence.append(window[:1])
    rows = sequence.extend(Draft.chain(window[1:-1], source="text"))
    wrong = rows.argmax(axis=1) != np.asarray(window[1:])
    found = entropy_border(tiny, [text], max_tokens=200, on_progress=counts.append)
    assert found == pytest.approx(logistic_border(entropy_nats(rows.astype(np.float64)), wrong), abs=1e-3)
    assert sum(counts) == 200
    with pytest.raises(ConfigError, match="give at least 100"):
        entropy_border(tiny, ["too short"])

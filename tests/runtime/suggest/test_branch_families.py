"""Branches of several families: each gives what it gives alone, whatever layers see and however rows are counted."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from family_cases import CASES

from skipstone.runtime.engine import Draft, Model, open_branches

FAMILIES = [
    *("llama, heads of 20", "mistral, window of 1", "gemma3_text", "gemma3n_text", "gpt2", "falcon, groups, two norms"),
    *("phi3, longrope with a window", "qwen3_moe", "olmoe"),
]
PROMPT = [5, 6, 7, 200, 8, 9, 10]


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_give_what_each_gives_alone(
    family: str, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    case = CASES[family]
    model = Model.open(make_bundle(make_checkpoint(case.model_type, **case.config)))
    sequence = model.new_sequence()
    sequence.append(PROMPT)
    with open_branches(sequence, most=3, steps=3) as branches:
        branches.reorder([0, 0, 0])
        branches.step([20, 30, 40])
        branches.reorder([2, 0, 2])
        rows = branches.step([21, 22, 23]).copy()
        values = branches.last_values().copy()
    for place, text in enumerate(([40, 21], [20, 22], [40, 23])):
        alone = model.new_sequence()
        alone.append([*PROMPT, *text])
        np.testing.assert_allclose(rows[place], alone.extend(Draft.empty())[0], rtol=0, atol=2e-4)
        length = len(alone.token_ids)
        np.testing.assert_allclose(values[place], alone.cache.values(slice(length))[-1], rtol=0, atol=2e-4)

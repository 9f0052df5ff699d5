"""The method `active`: new tokens from a share of the experts, and what counts a share means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from carved_bundles import carved_by_hand
from conftest import MakeBundle, MakeCheckpoint
from decoding import GREEDY, OPTIONS, PROMPT, plain_text, sampler_for
from hypothesis import given
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model, Part, Sequence
from skipstone.runtime.methods import ApproximateContext, approximate_methods, method_named
from skipstone.runtime.methods.experts.levels import (
    ActiveLevel,
    ActiveLevels,
    active_note,
    between,
    level_for,
    share_of,
)
from skipstone.runtime.sampling import SamplingOptions


def written(
    model: Model, setting: float, options: SamplingOptions = GREEDY, *, num_tokens: int = 16
) -> tuple[Sequence, list[Step], str]:
    """Return the text's sequence, the steps and the promise."""
    sequence = model.new_sequence()
    sequence.append([*PROMPT])
    context = ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_for(options),
        setting=setting,
        max_new_tokens=num_tokens,
        stop_ids=(),
    )
    opened = method_named("active").open(context)
    return sequence, list(opened.steps), opened.promise


def slow_text(model: Model, active: tuple[int, ...], num_tokens: int) -> list[int]:
    """The slow obvious way: for each token the prompt by all experts, then all tokens since by some, one by one."""
    text = [*PROMPT]
    for _ in range(num_tokens):
        sequence = model.new_sequence()
        sequence.append([*PROMPT])
        logits = sequence.extend(Draft.empty())[0]
        for length in range(len(PROMPT) + 1, len(text) + 1):
            sequence.append(text[len(sequence.token_ids) : length])
            waiting = sequence.token_ids[sequence.num_cached :]
            logits = sequence.peek_by(waiting, Part(variant="sparse", active=active))
        text.append(int(logits.argmax()))
    return text


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_at_the_plain_end_the_text_is_plain_decodings(carved: Model, options: SamplingOptions) -> None:
    sequence, _, promise = written(carved, 1.0, options)
    assert sequence.token_ids == plain_text(carved, options, 16)
    assert promise == "all tokens as the full model's: all experts are active"


def test_the_prompt_is_read_by_all_experts_and_new_tokens_by_those_of_the_level(carved: Model) -> None:
    sequence, steps, promise = written(carved, 0.25)
    assert sequence.token_ids == slow_text(carved, (2,) * 4, 16)
    assert sequence.token_ids != plain_text(carved, GREEDY, 16)
    assert len(steps) == 16 and {step.depth for step in steps} == {4}
    assert promise == "50% of the experts make each new token: agreement not calibrated"
    assert written(carved, 0.75)[2] == "75% of the experts make each new token: KL 0.100 to all of them where measured"


def test_whoever_goes_on_feeds_the_new_tokens_to_all_experts(carved: Model) -> None:
    sequence, _, _ = written(carved, 0.25)
    assert sequence.num_cached == len(PROMPT)
    fresh = carved.new_sequence()
    fresh.append(sequence.token_ids)
    found, wanted = sequence.extend(Draft.empty()), fresh.extend(Draft.empty())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_text_can_be_made_again(carved: Model) -> None:
    options = SamplingOptions(temperature=1.0, seed=7)
    first, second = (written(carved, 0.5, options)[0].token_ids for _ in range(2))
    assert first == second


def test_it_is_approximate_and_has_a_dial(carved: Model, tiny: Model) -> None:
    assert "active" in approximate_methods()
    with pytest.raises(ConfigError, match="the share of experts that are active, must be between 0 and 1, got 2"):
        written(carved, 2.0)
    with pytest.raises(ConfigError, match="'active' runs some experts of each layer, and the bundle has none"):
        written(tiny, 0.5)


# Shares and counts


def test_a_share_between_two_levels_has_counts_between_theirs(carved: Model) -> None:
    assert level_for(carved, 0.5).counts == (2,) * 4
    assert level_for(carved, 0.6).counts == (3,) * 4, "rounded up, so no fewer than asked for"
    assert level_for(carved, 0.75).kl == 0.1
    assert level_for(carved, 0.9).counts == level_for(carved, 1.0).counts == (4,) * 4
    assert level_for(carved, 0.0).counts == (2,) * 4, "the least that can be"


@given(st.data())
def test_counts_lie_between_those_of_the_levels_and_have_the_share_at_least(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16)).map(sorted), min_size=1, max_size=6))
    low, high = (tuple(counts) for counts in zip(*pairs, strict=True))
    levels = [ActiveLevel(share=sum(counts) / (16 * len(counts)), counts=counts) for counts in (low, high)]
    share = data.draw(st.floats(levels[0].share, levels[1].share))
    counts = between(*levels, share)
    assert all(least <= count <= most for least, count, most in zip(low, counts, high, strict=True))
    assert sum(counts) / (16 * len(counts)) >= share - 1e-6


def test_levels_that_a_search_kept_stand_for_those_of_the_bundle(
    carved: Model, tmp_path: Path, make_bundle: MakeBundle
) -> None:
    level = ActiveLevel(share=share_of((2, 2, 3, 4), carved.manifest), counts=(2, 2, 3, 4), kl=0.2)
    note = active_note(carved.manifest)
    assert note.save(ActiveLevels(num_tokens=9, levels=(level,), budget="", chosen=None), note.path(tmp_path))
    model = Model.open(carved.bundle.path, profiles=tmp_path)
    assert level_for(model, level.share) == level
    assert level_for(carved, level.share).counts == (3,) * 4


def test_layers_that_see_a_window_go_on_too_when_many_tokens_wait(
    make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2")
    levels = {"0.5": ExpertLevel(active=(2,) * 4)}
    model = Model.open(carved_by_hand(bundle, tmp_path / "windows", levels=levels))
    sequence, steps, _ = written(model, 0.5, num_tokens=100)
    assert len(steps) == 100
    fresh = model.new_sequence()
    fresh.append(sequence.token_ids)
    np.testing.assert_allclose(sequence.extend(Draft.empty()), fresh.extend(Draft.empty()), rtol=0, atol=1e-4)

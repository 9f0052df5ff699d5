"""The drafter `sparse`: fewer experts draft for all of them, and the text stays what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from carved_bundles import carved_by_hand
from conftest import MakeBundle
from decoding import GREEDY, OPTIONS, PROMPT, cached_rows, plain_text

from skipstone.errors import ConfigError
from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.decoding import ConfidenceStop, Drafter
from skipstone.runtime.engine import Draft, Model, Part, Sequence
from skipstone.runtime.methods import DrafterContext, method_named, weighed_methods
from skipstone.runtime.methods.depth import SelfDrafter
from skipstone.runtime.methods.experts import level_for
from skipstone.runtime.methods.experts.sparse import drafting_levels, open_sparse, read_share
from skipstone.runtime.sampling import SamplingOptions
from tests.runtime.methods.depth.test_self_draft import Trust, context_of
from tests.runtime.methods.depth.test_self_draft import run as run_opened


def opened(context: DrafterContext) -> Drafter:
    """Return a drafter that trusts its guesses fully, and knows all prices."""
    drafter = open_sparse(context)
    assert isinstance(drafter, SelfDrafter)
    drafter.plain_s = 1.0
    for exit in drafter.exits:
        exit.text.guess_s, exit.counts.hits = 0.05, 200.0
        exit.judge.stop, exit.judge.scale = ConfidenceStop(threshold=0.0, step=0.0), Trust()
    return drafter


# The calls


def logits_of(model: Model, part: Part) -> np.ndarray:
    sequence = model.new_sequence()
    sequence.append([*PROMPT])
    sequence.extend(Draft.empty())
    sequence.append([5])
    return sequence.peek_by([5], part).copy()


def test_all_experts_give_the_logits_of_the_dense_model_and_fewer_do_not(carved: Model) -> None:
    sequence = carved.new_sequence()
    sequence.append([*PROMPT, 5])
    dense = sequence.extend(Draft.empty())[0]
    np.testing.assert_allclose(logits_of(carved, Part(variant="sparse", active=(4,) * 4)), dense, rtol=0, atol=1e-5)
    few = logits_of(carved, Part(variant="sparse", active=(1,) * 4))
    assert np.abs(few - dense).max() > 1e-2
    assert np.abs(logits_of(carved, Part(variant="sparse", active=(4, 4, 4, 1))) - few).max() > 1e-4


def test_tokens_are_shown_once_and_the_next_call_writes_over_what_was_cached(carved: Model) -> None:
    part, sequence, fresh = Part(variant="sparse", active=(1,) * 4), carved.new_sequence(), carved.new_sequence()
    sequence.append([*PROMPT])
    sequence.extend(Draft.empty())
    sequence.append([5])
    whole = sequence.peek_by([5, 6, 7], part).copy()
    sequence.peek_by([5], part)
    sequence.peek_by([5, 6], part)
    np.testing.assert_allclose(sequence.peek_by([5, 6, 7], part), whole, rtol=0, atol=1e-5)
    sequence.extend(Draft.chain([6, 7], source="x"))
    assert sequence.num_peeked == 0
    fresh.append([*PROMPT, 5, 6, 7])
    fresh.extend(Draft.empty())
    sequence.commit([6, 7, 8])
    for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
        np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)


# The text


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding_and_the_dense_model_caches_it(
    carved: Model, options: SamplingOptions
) -> None:
    fresh = carved.new_sequence()

    def look(sequence: Sequence) -> None:
        sequence.check()
        fresh.rollback(0)
        fresh.append(sequence.token_ids[: sequence.num_cached])
        fresh.extend(Draft.empty())
        for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)

    context = context_of(carved, options)
    text, steps = run_opened(context, opened(context), look=look)
    assert text == plain_text(carved, options, 24)
    assert max(step.num_drafted for step in steps) > 1


@pytest.mark.parametrize("options", OPTIONS[:2], ids=range(2))
def test_untrained_it_tries_each_level_and_writes_the_plain_text(carved: Model, options: SamplingOptions) -> None:
    context = context_of(carved, options)
    text, steps = run_opened(context, open_sparse(context), max_new_tokens=32)
    assert text == plain_text(carved, options, 32)
    assert [step.num_drafted for step in steps[:4]] == [0, 1, 1, 0], "the prompt, a try of each level, plain once"


def test_it_is_one_of_those_that_auto_weighs_where_the_bundle_has_experts(carved: Model, tiny: Model) -> None:
    assert "sparse" in [method.name for method in weighed_methods(carved)]
    assert "sparse" not in [method.name for method in weighed_methods(tiny)]


def test_a_bundle_without_experts_says_how_to_make_them(tiny: Model) -> None:
    with pytest.raises(
        ConfigError, match="'sparse' runs some experts of each layer, and the bundle has none; make one"
    ):
        method_named("sparse").draft(context_of(tiny, GREEDY))


def test_its_drafts_have_the_levels_of_the_bundle_or_half_of_all(
    carved: Model, tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    assert [level.share for level in drafting_levels(carved)] == [0.5, 0.75]
    whole = {"1.0": ExpertLevel(active=(4,) * 4)}
    bare = Model.open(carved_by_hand(make_bundle(tiny_checkpoint), tmp_path / "bare", levels=whole))
    assert [level.counts for level in drafting_levels(bare)] == [(2,) * 4]
    assert read_share(bare, level_for(bare, 1.0)) == 1
    assert 0.5 < read_share(bare, level_for(bare, 0.5)) < 1

"""The drafter `skip`: the model drafts for itself without some of its layers, and the text stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle
from decoding import GREEDY, OPTIONS, cached_rows, leave_out, plain_text
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone.errors import ConfigError
from skipstone.runtime.decoding import ConfidenceStop, Drafter, PlainDrafter, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import DrafterContext, weighed_methods
from skipstone.runtime.methods.depth import (
    LONGEST,
    SelfDrafter,
    can_skip,
    open_skip,
    require_skip_set,
    skip_note,
)
from skipstone.runtime.sampling import SamplingOptions
from tests.runtime.methods.depth.test_self_draft import Picky, Trust, context_of, error_of_texts, run

# What the two layers in the middle add to the hidden state, as a share of what random ones add.
MIDDLE = {"random": 1.0, "nearly silent": 0.05, "silent": 0.0}
SETS = [(1,), (2,), (1, 2)]


@pytest.fixture(scope="module")
def make_folder(tiny_checkpoint: Path, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export a tiny model of four layers, each a stage, of which the second and third add less than they did."""
    from safetensors.torch import load_file, save_file

    def make(middle: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("middle") / "checkpoint"
        shutil.copytree(tiny_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        for layer in (1, 2):
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                tensors[f"model.layers.{layer}.{name}.weight"] *= MIDDLE[middle]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return make_bundle(folder, **{"cuts": "each"} | options)

    return make


@pytest.fixture(scope="module")
def folders(make_folder: Any) -> dict[str, Path]:
    return {middle: make_folder(middle) for middle in MIDDLE}


@pytest.fixture(params=list(MIDDLE))
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Model:
    return Model.open(folders[request.param])


def opened(context: DrafterContext) -> Drafter:
    """Return a drafter that trusts its guesses fully, and knows all prices."""
    drafter = open_skip(context)
    assert isinstance(drafter, SelfDrafter)
    (one,) = drafter.exits
    drafter.plain_s, one.text.guess_s, one.counts.hits = 1.0, 0.05, 200.0
    one.judge.stop, one.judge.scale = ConfidenceStop(threshold=0.0, step=0.0), Trust()
    return drafter


# The text


@pytest.mark.parametrize("layers", SETS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_text_is_that_of_plain_decoding_and_every_stage_caches_it(
    model: Model, layers: tuple[int, ...], options: SamplingOptions
) -> None:
    fresh = model.new_sequence()

    def look(sequence: Sequence) -> None:
        sequence.check()
        fresh.rollback(0)
        fresh.append(sequence.token_ids[: sequence.num_cached])
        fresh.extend(Draft.empty())
        for found, wanted in zip(cached_rows(sequence), cached_rows(fresh), strict=True):
            np.testing.assert_allclose(found, wanted[:, :, : sequence.num_cached], rtol=0, atol=1e-4)

    context = context_of(leave_out(model, *layers), options)
    text, steps = run(context, opened(context), look=look)
    assert text == plain_text(model, options, 24)
    assert max(step.num_drafted for step in steps) > 1


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_untrained_it_writes_the_plain_text_too(model: Model, options: SamplingOptions) -> None:
    context = context_of(leave_out(model, 1, 2), options)
    text, steps = run(context, open_skip(context), max_new_tokens=32)
    assert text == plain_text(model, options, 32)
    assert [step.num_drafted for step in steps[:3]] == [0, 1, 0], "the prompt, a try, and plain decoding once"


@pytest.mark.parametrize(("middle", "least"), [("silent", 1.0), ("nearly silent", 0.4)])
def test_layers_that_add_little_can_be_left_out_and_most_guesses_stand(
    folders: dict[str, Path], middle: str, least: float
) -> None:
    context = context_of(leave_out(Model.open(folders[middle]), 1, 2), GREEDY)
    _, steps = run(context, opened(context), max_new_tokens=200)
    drafted, accepted = sum(step.num_drafted for step in steps), sum(step.num_accepted for step in steps)
    assert drafted > 50
    assert accepted / drafted >= least and (accepted == drafted) == (least == 1)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_the_layers_before_the_first_left_out_see_no_token_twice(
    folders: dict[str, Path], fed: list[tuple[int, ...]], exact: bool
) -> None:
    model = leave_out(Model.open(folders["silent"]), 2)
    context = context_of(model, GREEDY, exact=exact)
    drafter = opened(context)
    sequence, accept = context.sequence, match(context.sampler, context.sequence.token_ids)
    sequence.commit(accept(Draft.empty(), sequence.extend(Draft.empty())))
    fed.clear()
    draft = drafter.propose(sequence.token_ids, limit=LONGEST)
    sequence.extend(draft)
    assert len(draft) == LONGEST
    # A guess runs the first two stages, then the last; the call behind runs the first two for one token more.
    assert [shape[1] for shape in fed] == [1, 1] * LONGEST + [1, LONGEST + 1]
    assert sequence.num_peeked == LONGEST


@settings(max_examples=20, deadline=None)
@given(layers=st.sets(st.integers(1, 4), min_size=1), seed=st.integers(0, 99), greedy=st.booleans())
def test_any_layers_between_the_first_and_the_last_leave_the_text_as_it_is(
    six_layers: Path, layers: set[int], seed: int, greedy: bool
) -> None:
    model = leave_out(Model.open(six_layers), *sorted(layers))
    options = GREEDY if greedy else SamplingOptions(temperature=1.0, seed=seed)
    context = context_of(model, options)
    text, steps = run(context, opened(context), max_new_tokens=12)
    assert text == plain_text(model, options, 12)
    assert sum(step.num_drafted for step in steps) > 0


@pytest.fixture(scope="module")
def six_layers(make_checkpoint: Any, make_bundle: MakeBundle) -> Path:
    return make_bundle(make_checkpoint(num_hidden_layers=6), cuts="each")


@pytest.mark.parametrize("sampling", [GREEDY, OPTIONS[1]], ids=["greedy", "sampled"])
def test_in_exact_mode_every_bit_of_int4_logits_is_that_of_plain_decoding(
    make_folder: Any, sampling: SamplingOptions
) -> None:
    model = leave_out(Model.open(make_folder("nearly silent", precision="int4")), 1, 2)
    texts, logits, num_calls = [], [], []
    for open_one in (opened, lambda context: PlainDrafter()):
        context = context_of(model, sampling, exact=True)
        accept, rows, calls = match(context.sampler, context.sequence.token_ids), [], 0
        for step in decode(context.sequence, drafter=open_one(context), accept=accept, max_new_tokens=40, stop_ids=()):
            rows += [*step.logits[: len(step.token_ids)].copy()]
            calls += 1
        texts.append(context.sequence.token_ids)
        logits.append(rows)
        num_calls.append(calls)
    assert texts[0] == texts[1]
    assert num_calls[0] < num_calls[1], "some guesses stand"
    found, wanted = (np.array(rows).view(np.uint32) for rows in logits)
    assert np.array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rejection", "k-seq"])
def test_rules_that_draw_keep_the_law_of_the_model(folders: dict[str, Path], rule: str) -> None:
    model = leave_out(Model.open(folders["nearly silent"]), 1, 2)
    assert error_of_texts(model, rule, lambda drafter: drafter, 1000, opened=opened) < 3.1  # once in a thousand
    assert error_of_texts(model, rule, Picky, 1000, opened=opened) > 6, "a wrong drafter must be seen"


# What opens


def test_without_a_search_it_says_how_to_make_one(folders: dict[str, Path], tiny: Model, tmp_path: Path) -> None:
    for profiles in (None, tmp_path):
        model = Model.open(folders["silent"], profiles=profiles)
        with pytest.raises(ConfigError, match=r"'skip' may leave out is not known; run `skipstone tune skip BUNDLE"):
            open_skip(context_of(model, GREEDY))
        assert not can_skip(model) and "skip" not in [method.name for method in weighed_methods(model)]
    with pytest.raises(ConfigError, match=r"the bundle has 1; make one with .* --cuts each`, then run `skipstone tune"):
        open_skip(context_of(tiny, GREEDY))
    assert "skip" not in [method.name for method in weighed_methods(tiny)]


def test_what_a_search_found_is_used_and_planned_with(folders: dict[str, Path], tmp_path: Path) -> None:
    model = Model.open(folders["silent"], profiles=tmp_path)
    known = require_skip_set(leave_out(Model.open(folders["silent"]), 1))
    note = skip_note(model.manifest)
    assert note.save(known, note.path(tmp_path))
    assert tuple(method.name for method in weighed_methods(model)) == ("ngram", "suffix", "recycle", "skip")
    drafter = open_skip(context_of(model, GREEDY))
    assert isinstance(drafter, SelfDrafter) and drafter.name == "skip" and drafter.peeks
    assert [(one.share, one.guess_share) for one in drafter.exits] == [(0.25, 0.75)]


def test_it_holds_for_a_bundle_of_the_same_weights_that_is_cut_elsewhere(make_folder: Any, tmp_path: Path) -> None:
    for options, fits in (({"cuts": "1,3"}, True), ({"cuts": "none", "exits": "1,3"}, True), ({"cuts": "2"}, False)):
        model = Model.open(make_folder("silent", **options), profiles=tmp_path)
        note, known = skip_note(model.manifest), require_skip_set(leave_out(Model.open(model.bundle.path), 1, 2))
        note.save(known, note.path(tmp_path))
        assert can_skip(model) == fits
        if fits:
            assert open_skip(context_of(model, GREEDY)).name == "skip"
            continue
        with pytest.raises(ConfigError, match=r"1, 2 from 0, are not whole stages .* --cuts 1,3`, or search with"):
            open_skip(context_of(model, GREEDY))


def test_a_damaged_file_is_refused_and_auto_goes_on_without(folders: dict[str, Path], tmp_path: Path) -> None:
    model = Model.open(folders["silent"], profiles=tmp_path)
    skip_note(model.manifest).path(tmp_path).write_text("{}")
    with pytest.raises(ConfigError, match=r"is no set of layers to leave out: .*; make it anew with `skipstone tune"):
        open_skip(context_of(model, GREEDY))
    assert "skip" not in [method.name for method in weighed_methods(model)]

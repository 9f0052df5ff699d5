"""Quality against speed at settings of a dial: plain at the plain end, and elsewhere what the slow way finds."""

from __future__ import annotations

import argparse
import inspect
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from carved_bundles import carved_by_hand
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray
from texts import words

from skipstone.api import export
from skipstone.errors import ConfigError
from skipstone.evaluate import (
    NEW_TOKENS,
    PROMPT_TOKENS,
    evaluate_dial,
    judged_text,
    log_softmax,
    new_text,
    prompts_of,
    steps_of,
)
from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.methods import approximate_methods, method_named

NUM_LAYERS = 4
# Settings at which the tiny pair gives tokens of both kinds.
LOOSE = {"skipdecode": 0.25, "switch": 7.2, "big-little": 8.0, "cascade": 0.0}


@pytest.fixture(scope="session")
def pair(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model in four stages, carved into experts, with a little one beside, which is less sure."""
    small = make_checkpoint(num_hidden_layers=1, initializer_range=0.1)
    bundle, levels = make_bundle(make_checkpoint(), exits="auto", drafter=small), {"0.5": ExpertLevel(active=(2,) * 4)}
    return Model.open(carved_by_hand(bundle, tmp_path_factory.mktemp("pair") / "carved", levels=levels))


def logits_after(model: Model, text: list[int]) -> NDArray[np.float32]:
    """The slow obvious way: the whole text through a new sequence."""
    sequence = model.new_sequence()
    sequence.append(text)
    return np.asarray(sequence.extend(Draft.empty())[0])


@pytest.mark.parametrize("name", [one for one in approximate_methods() if one != "exit"])
def test_at_the_plain_end_every_token_and_every_law_is_the_full_models(pair: Model, name: str) -> None:
    method = method_named(name)
    (row,) = evaluate_dial(pair, method, [words()], settings=[method.dial.plain], max_tokens=128)
    assert (row.setting, row.num_tokens, row.by_less, row.agreement) == (method.dial.plain, 128, 0.0, 1.0)
    assert row.kl == pytest.approx(0, abs=1e-9) and row.exact_match == 1.0
    assert row.tokens_per_s > 0 and row.times_plain > 0


@pytest.mark.parametrize("name", LOOSE)
def test_a_text_is_judged_as_the_full_model_does_prefix_by_prefix(pair: Model, name: str) -> None:
    method, (prompt,) = method_named(name), prompts_of(pair, [words()], most=1)
    verdict = judged_text(pair, method, LOOSE[name], prompt)
    steps = [
        (step, step.logits.copy())
        for step in steps_of(pair, method, LOOSE[name], new_text(pair, prompt, exact=pair.manifest.exact))
    ]
    text, agrees, nats, by_less = [*prompt], list[bool](), list[float](), list[bool]()
    for step, laws in steps:
        for number, token_id in enumerate(step.token_ids):
            full, law = logits_after(pair, text), laws[number]
            lenient = number < step.num_accepted and law.argmax() != token_id
            if lenient:
                assert pair.draft_model is not None
                law = logits_after(pair.draft_model, text)
                assert law.argmax() == token_id, "a guess that stands is the little model's choice"
            agrees.append(bool(full.argmax() == token_id))
            wanted, used = log_softmax(full[None])[0], log_softmax(law[None])[0]
            nats.append(float((np.exp(wanted) * (wanted - used)).sum()))
            by_less.append(lenient or made_by_less(step))
            text.append(token_id)
    assert len(agrees) == NEW_TOKENS and 0 < np.mean(by_less) <= 1 and np.mean(agrees) < 1
    assert verdict.agrees.tolist() == agrees and verdict.by_less.tolist() == by_less
    np.testing.assert_allclose(verdict.nats, nats, atol=1e-3)


def made_by_less(step: Step) -> bool:
    return step.depth is not None and step.depth < NUM_LAYERS


def test_the_figures_are_the_means_over_all_texts(pair: Model) -> None:
    method, settings = method_named("switch"), (0.0, 7.2)
    prompts = prompts_of(pair, [words()], most=3)
    plain, loose = evaluate_dial(pair, method, [words()], settings=settings, max_tokens=3 * NEW_TOKENS)
    verdicts = [judged_text(pair, method, 7.2, prompt) for prompt in prompts]
    assert loose.agreement == np.concatenate([one.agrees for one in verdicts]).mean() < plain.agreement
    assert loose.kl == pytest.approx(np.concatenate([one.nats for one in verdicts]).mean())
    assert loose.by_less == np.concatenate([one.by_less for one in verdicts]).mean() > plain.by_less
    assert loose.exact_match < plain.exact_match == 1


def test_the_settings_of_the_method_are_judged_where_none_are_given_and_progress_ends_at_one(pair: Model) -> None:
    shares: list[float] = []
    method = method_named("skipdecode")
    rows = evaluate_dial(pair, method, [words()], max_tokens=NEW_TOKENS, on_progress=shares.append)
    assert [row.setting for row in rows] == [*method.dial.settings]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(set(shares)) == len(shares)


def test_prompts_are_spread_over_the_texts_and_begin_as_the_tokenizer_begins(pair: Model) -> None:
    texts = [words(1), words(2), "too short"]
    every = prompts_of(pair, texts, most=10**6)
    assert all(len(prompt) == PROMPT_TOKENS for prompt in every)
    begin = pair.tokenizer.encode("")
    assert all(prompt[: len(begin)] == begin for prompt in every)
    first = pair.tokenizer.encode(texts[0], add_special_tokens=False)
    assert [*begin, *first][:PROMPT_TOKENS] == every[0]
    few = prompts_of(pair, texts, most=5)
    assert few[0] == every[0] and few[-1] == every[-1] and len(few) == 5
    assert few == [prompt for prompt in every if prompt in few]


def test_what_cannot_be_judged_is_refused_before_any_work(
    pair: Model, tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    switch = method_named("switch")
    with pytest.raises(ConfigError, match="the text is shorter than one prompt of 64 tokens"):
        evaluate_dial(pair, switch, ["def add"])
    with pytest.raises(ConfigError, match=r"the dial of switch, entropy in bits, must be at least 0, got -1"):
        evaluate_dial(pair, switch, [words()], settings=[-1.0])
    with pytest.raises(ConfigError, match="needs a small model"):
        evaluate_dial(tiny, switch, [words()])
    short = Model.open(make_bundle(make_checkpoint(max_position_embeddings=128)))
    with pytest.raises(ConfigError, match="the model sees 128 tokens; judging texts wants at least 129"):
        evaluate_dial(short, method_named("skipdecode"), [words()])


@pytest.mark.slow
def test_on_the_bundled_model_a_looser_dial_agrees_less(tmp_path: Path) -> None:
    folder = export("pebble", tmp_path / "out", exits="auto", drafter="pebble-mini")
    text = inspect.getsource(argparse)
    rows = evaluate_dial(Model.open(folder), method_named("switch"), [text])
    assert (rows[0].agreement, rows[0].kl, rows[0].exact_match, rows[0].by_less) == (1.0, 0.0, 1.0, 0.0)
    for stricter, looser in pairwise(rows):
        assert looser.agreement < stricter.agreement and looser.kl > stricter.kl and looser.by_less > stricter.by_less

"""How far a dial may be turned: the statistics, the file, and who is refused."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st
from texts import words

from skipstone.api import export
from skipstone.errors import ConfigError
from skipstone.evaluate import calibrate_dial, design_effect, evaluate_dial, judged_text, prompts_of, settings_to_test
from skipstone.runtime.engine import Model
from skipstone.runtime.generation import GenerationOptions
from skipstone.runtime.methods import (
    AGREEMENTS,
    Calibration,
    DialFinding,
    approximate_methods,
    calibrated_setting,
    dial_note,
    dial_note_of,
    dial_setting,
    method_named,
)

SWITCH = method_named("switch")
NO_CALIBRATION = r"\.json is no calibration of switch: .*; make it anew with `skipstone tune"
NUM_TOKENS = 4096
COUNTS = st.lists(st.integers(0, NUM_TOKENS), max_size=8)


@pytest.fixture(scope="session")
def pair_bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    small = make_checkpoint(num_hidden_layers=1, initializer_range=0.1)
    return make_bundle(make_checkpoint(), exits="auto", drafter=small)


@pytest.fixture
def pair(pair_bundle: Path, tmp_path: Path) -> Model:
    """A tiny model in four stages with a little one beside; what is measured is kept in a folder of the test."""
    return Model.open(pair_bundle, profiles=tmp_path)


def calibration_of(*counts: int) -> Calibration:
    """Return a calibration in which so many tokens were wrong at 1, 2, 3 ... of the dial."""
    found = tuple(DialFinding(float(number), count) for number, count in enumerate(counts, start=1))
    return Calibration(method="switch", num_tokens=NUM_TOKENS, error_rate=0.05, tested=found)


# The statistics


@pytest.mark.parametrize("method", [one for one in approximate_methods().values() if not one.dial.is_agreement])
def test_the_settings_to_test_go_from_the_plain_end_to_the_loosest(method: Any) -> None:
    settings = settings_to_test(method)
    distances = [abs(setting - method.dial.plain) for setting in settings]
    assert len(settings) == 8 and distances == sorted(set(distances)) and distances[0] > 0
    assert {*method.dial.settings[1:]} < {*settings} and settings[-1] == method.dial.settings[-1]
    for setting in settings:
        method.require(setting)


@given(counts=COUNTS, agreements=st.tuples(st.floats(0.8, 1.0), st.floats(0.8, 1.0)))
def test_more_agreement_never_allows_a_looser_setting(counts: list[int], agreements: tuple[float, float]) -> None:
    known = calibration_of(*counts)
    lower, higher = sorted(agreements)
    assert (known.loosest(higher) or 0) <= (known.loosest(lower) or 0)


@given(counts=COUNTS, more=st.integers(0, 100), place=st.integers(0, 7), agreement=st.sampled_from(AGREEMENTS))
def test_more_wrong_tokens_never_allow_a_looser_setting(
    counts: list[int], more: int, place: int, agreement: float
) -> None:
    worse = [min(NUM_TOKENS, count + more * (number == place)) for number, count in enumerate(counts)]
    found, other = (calibration_of(*some).loosest(agreement) or 0 for some in (counts, worse))
    assert other <= found


def test_a_setting_behind_one_that_failed_is_not_used() -> None:
    assert calibration_of(0, 2000, 0).loosest(0.9) == 1
    assert calibration_of(2000, 0, 0).loosest(0.9) is None
    assert calibration_of(0, 0, 0).loosest(1.0) is None


def test_a_setting_whose_agreement_is_too_low_is_seldom_let_through() -> None:
    """With the true share of wrong tokens at the border the chance to pass is the error rate, or less."""
    wrong = np.random.default_rng(0).binomial(NUM_TOKENS, 0.02, size=2000)
    passed = np.mean([calibration_of(int(count)).loosest(0.98) is not None for count in wrong])
    assert 0 < passed < 0.05
    right = np.random.default_rng(0).binomial(NUM_TOKENS, 0.01, size=200)
    assert np.mean([calibration_of(int(count)).loosest(0.98) is not None for count in right]) > 0.9


def test_wrong_tokens_that_come_together_count_as_fewer() -> None:
    """As above, with all wrong tokens of a text in a row of 32; counted as independent they pass far too often."""
    random, passed, naive = np.random.default_rng(0), list[bool](), list[bool]()
    for _ in range(500):
        wrong = (32 * random.binomial(1, 0.2, size=NUM_TOKENS // 64)).tolist()  # a tenth of all tokens
        one = DialFinding(1.0, sum(wrong), design_effect(wrong))
        known = replace(calibration_of(), tested=(one,))
        passed.append(known.keeps(one, 0.9))
        naive.append(replace(known, tested=()).keeps(one, 0.9))
    assert np.mean(passed) < 0.05 < 0.2 < np.mean(naive)


def test_the_design_effect_is_one_by_chance_and_the_size_of_a_text_where_whole_texts_are_wrong() -> None:
    chance = np.random.default_rng(0).binomial(64, 0.1, size=2000)
    assert design_effect(chance.tolist()) == pytest.approx(1, abs=0.1)
    assert design_effect([0, 64] * 1000) == pytest.approx(64, rel=0.01)
    assert design_effect([0, 0]) == design_effect([64, 64]) == 1
    known = calibration_of(0, 100)
    loose = replace(known, tested=(known.tested[0], DialFinding(2.0, 100, 8.0)))
    assert (known.num_independent, loose.num_independent) == (4096, 512)
    assert known.loosest(0.995) == 1 and loose.loosest(0.995) is None


# Making one


def test_the_found_counts_are_those_of_the_judged_texts_and_it_ends_where_nothing_is_kept(pair: Model) -> None:
    method, text, shares = method_named("skipdecode"), words(count=1500), list[float]()
    known = calibrate_dial(pair, method, [text], max_tokens=2000, on_progress=shares.append)
    assert known.num_tokens == 2048 and known.method == "skipdecode"
    assert [one.setting for one in known.tested] == [*settings_to_test(method)[: len(known.tested)]]
    assert not known.keeps(known.tested[-1], 0.8) and all(known.keeps(one, 0.8) for one in known.tested[:-1])
    assert len(known.tested) < len(settings_to_test(method)), "a random model loses much with a layer less"
    last = known.tested[-1]
    prompts = prompts_of(pair, [text], most=32)
    wrong = sum((~judged_text(pair, method, last.setting, prompt).agrees).sum() for prompt in prompts)
    assert last.num_wrong == wrong
    assert shares == sorted(shares) and len(shares) == 32 * len(known.tested)


def test_what_cannot_be_calibrated_is_refused(pair: Model, tiny: Model) -> None:
    with pytest.raises(
        ConfigError, match=r"the dial of exit is the agreement; calibrate its exits with `skipstone tune exits "
    ):
        calibrate_dial(pair, method_named("exit"), [words()])
    with pytest.raises(ConfigError, match="wants at least 2000 tokens at each setting, got 100"):
        calibrate_dial(pair, SWITCH, [words()], max_tokens=100)
    with pytest.raises(ConfigError, match=r"prompts for \d+ tokens; .* at least 2000.*give more or longer files"):
        calibrate_dial(pair, SWITCH, [words(count=100)])
    with pytest.raises(ConfigError, match="needs a small model"):
        calibrate_dial(tiny, SWITCH, [words(count=1500)])


# Using one


def test_a_kept_calibration_sets_the_dial_and_says_what_it_promises(pair: Model, tmp_path: Path) -> None:
    note = dial_note(pair, SWITCH)
    assert note.save(calibration_of(10, 100, 2000), note.path(tmp_path))
    promise = "9{}.0 % of tokens as the full model's, calibrated on 4096 tokens; "
    assert calibrated_setting(pair, SWITCH, 0.95) == (2.0, promise.format(5) + "switch at 2 (entropy in bits)")
    assert calibrated_setting(pair, SWITCH, 0.99)[0] == 1.0
    setting, promised = calibrated_setting(pair, SWITCH, 0.999)
    assert setting == SWITCH.dial.plain
    assert promised.endswith("calibrated on 4096 tokens; no setting of switch keeps that, so 0 is used: plain")
    options = GenerationOptions(decode="switch", min_agreement=0.95)
    assert options.approximate is SWITCH and dial_setting(pair, SWITCH, 0.95, None)[0] == 2.0


def test_without_one_it_says_how_to_make_it(pair: Model, pair_bundle: Path) -> None:
    for model in (pair, Model.open(pair_bundle)):
        for name, pairing in (("switch", " and small model"), ("skipdecode", "")):
            with pytest.raises(
                ConfigError,
                match=f"^{name} is not calibrated for this bundle{pairing}; "
                f"run `skipstone tune dial BUNDLE --decode {name} --text FILE` once$",
            ):
                calibrated_setting(model, method_named(name), 0.9)


def test_a_file_of_the_users_own_is_used_in_its_place(pair: Model, tmp_path: Path) -> None:
    note, own = dial_note(pair, SWITCH), tmp_path / "own.json"
    note.save(calibration_of(0, 0), note.path(tmp_path))
    note.save(calibration_of(0), own)
    assert calibrated_setting(pair, SWITCH, 0.9)[0] == 2.0
    assert calibrated_setting(pair, SWITCH, 0.9, file=own)[0] == 1.0
    with pytest.raises(ConfigError, match=r"missing\.json cannot be read: No such file"):
        calibrated_setting(pair, SWITCH, 0.9, file=tmp_path / "missing.json")


# The file


def test_the_name_of_the_file_depends_on_all_that_changes_the_text(pair: Model, tmp_path: Path) -> None:
    manifest, draft_model = pair.manifest, pair.draft_model.manifest if pair.draft_model else None
    weights = {**manifest.files, "weights.bin": manifest.files["tokenizer.json"]}
    notes = [
        dial_note_of(SWITCH, manifest, draft_model),
        dial_note_of(SWITCH, manifest, None),
        dial_note_of(SWITCH, replace(manifest, recipe={**manifest.recipe, "name": "int8"}), draft_model),
        dial_note_of(SWITCH, replace(manifest, files=weights), draft_model),
        dial_note_of(SWITCH, replace(manifest, exits=manifest.exits[:1]), draft_model),
        dial_note_of(method_named("cascade"), manifest, draft_model),
    ]
    assert len({note.path(tmp_path) for note in notes}) == len(notes)
    elsewhere = replace(manifest, provenance=replace(manifest.provenance, source="another folder"))
    assert dial_note_of(SWITCH, elsewhere, draft_model) == notes[0] == dial_note(pair, SWITCH)
    skipdecode = method_named("skipdecode")
    assert dial_note(pair, skipdecode) == dial_note_of(skipdecode, manifest, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "cascade"}, "is a calibration of cascade; make one of switch: `skipstone tune"),
        ({"tested": [{"setting": -1.0, "num_wrong": 0, "design_effect": 1.0}]}, "the dial of switch, .* got -1"),
        ({"num_tokens": 5}, NO_CALIBRATION),
        ({"error_rate": 1.0}, NO_CALIBRATION),
        ({"tested": [{"setting": 1.0, "num_wrong": -1, "design_effect": 1.0}]}, NO_CALIBRATION),
        ({"tested": [{"setting": 1.0, "num_wrong": 1}]}, NO_CALIBRATION),
        ({"tested": [{"setting": 1.0, "num_wrong": 1, "design_effect": -1.0}]}, NO_CALIBRATION),
    ],
)
def test_a_damaged_file_or_that_of_another_method_is_refused(
    pair: Model, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    note = dial_note(pair, SWITCH)
    path = note.path(tmp_path)
    note.save(calibration_of(10), path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"finding": data["finding"] | change}))
    with pytest.raises(ConfigError, match=message):
        calibrated_setting(pair, SWITCH, 0.9)


@pytest.mark.slow
def test_on_the_bundled_model_an_agreement_is_kept_on_other_text(tmp_path: Path) -> None:
    folder = export("pebble", tmp_path / "out", exits="auto", drafter="pebble-mini")
    model, texts = (
        Model.open(folder, profiles=tmp_path),
        [inspect.getsource(one) for one in (argparse, logging, difflib)],
    )
    known = calibrate_dial(model, SWITCH, texts[:2], max_tokens=2048)
    note = dial_note(model, SWITCH)
    assert note.save(known, note.path(tmp_path))
    setting, _ = calibrated_setting(model, SWITCH, 0.95)
    assert setting != SWITCH.dial.plain
    (row,) = evaluate_dial(model, SWITCH, texts[2:], settings=[setting])
    assert 0.93 <= row.agreement < 1

"""Which exit is chosen: the one that pays best by a model of the loop, as a simulation of it shows, or none."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from skipstone.errors import ConfigError
from skipstone.runtime.costs import MOST_BEHIND, ExitTimes, exit_times
from skipstone.runtime.costs.rates import tokens_per_s
from skipstone.runtime.costs.stage_times import LATE_ROWS
from skipstone.runtime.engine import Model, SharedStores
from skipstone.runtime.methods.depth import (
    TRY_AGAIN,
    Exit,
    ExitLevels,
    ExitPolicy,
    ExitThresholds,
    Gate,
    GatedExit,
    Level,
    exits_note,
    open_policy,
)

SURE, UNSURE = (np.array([value, 0, 0], np.float32) for value in (9, 0))
TIMES = ExitTimes(10.0, {2: 5.0, 6: 8.0}, {2: (6.0, 7.0, 12.0), 6: (3.0, 3.5, 6.0)}, {6: (5.5, 3.0)})


def exit_at(num_layers: int, share: float, *, metric: str = "gap", threshold: float = 0.5) -> GatedExit:
    gate = Gate(metric=metric, threshold=threshold, share=share)
    return Exit(num_layers=num_layers, num_stages=num_layers // 2, share=num_layers / 8, text=None, judge=gate)


def policy(*shares: float, **options: float) -> ExitPolicy:
    exits = [exit_at(num_layers, share) for num_layers, share in zip((2, 6), shares, strict=False)]
    return ExitPolicy(exits, TIMES, num_layers=8, **options)


def simulated(share: float, leave_s: float, late_s: list[float], stay_s: float, num_tokens: int = 200_000) -> float:
    """The loop itself, played: tokens per millisecond."""
    draws = np.random.default_rng(0).random(num_tokens) < share
    spent, behind = 0.0, 0
    for leaves in draws:
        if leaves and behind < len(late_s) - 1:
            spent += leave_s
            behind += 1
        else:
            spent += stay_s + late_s[behind]
            behind = 0
    return num_tokens / spent


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.97, 1.0])
def test_expected_tokens_per_millisecond_are_those_of_the_loop_played(share: float) -> None:
    late_s = [3.0 + 0.4 * row for row in range(MOST_BEHIND + 1)]
    assert tokens_per_s(share, 1.5, late_s) == pytest.approx(simulated(share, 1.5, late_s, 1.5), rel=0.01)
    found = tokens_per_s(share, 1.5, late_s, stay_s=0.6)
    assert found == pytest.approx(simulated(share, 1.5, late_s, 0.6), rel=0.01)


def test_without_a_token_that_leaves_a_round_is_the_exit_and_one_late_call() -> None:
    assert TIMES.rate(2, 0.0) == pytest.approx(1 / 11)
    assert TIMES.rate(6, 1.0) == pytest.approx(17 / (17 * 8.0 + 6.0))


def test_an_exit_that_reads_hidden_states_pays_the_head_only_for_tokens_that_leave() -> None:
    assert TIMES.rate(6, 0.0, reads_states=True) == pytest.approx(1 / (5.5 + 3.0))
    assert TIMES.rate(6, 1.0, reads_states=True) == pytest.approx(17 / (16 * 8.5 + 5.5 + 6.0))
    logits, states = exit_at(6, 0.3), exit_at(6, 0.3, metric="saturation")
    rates = [ExitPolicy([one], TIMES, num_layers=8).plan(one).rate for one in (logits, states)]
    assert rates == [TIMES.rate(6, 0.3), TIMES.rate(6, 0.3, reads_states=True)]
    assert rates[1] > rates[0]


def test_an_exit_by_saturation_believes_hidden_states_that_hardly_turned() -> None:
    one = exit_at(6, 0.5, metric="saturation", threshold=0.9)
    states = np.array([[[1, 0], [1, 0.1]], [[1, 0], [0, 1]]], np.float32)
    assert one.judge.are_sure(states).tolist() == [True, False]
    chooser = ExitPolicy([one], TIMES, num_layers=8)
    assert [chooser.is_sure(one, row) for row in states] == [True, False]


def test_the_exit_that_promises_most_is_chosen() -> None:
    for shares, wanted in (((0.1, 0.9), 6), ((0.8, 0.9), 2)):
        chosen = policy(*shares).choose()
        assert chosen is not None and chosen.num_layers == wanted


def test_no_exit_is_chosen_where_plain_decoding_is_as_fast() -> None:
    none = policy(0.0, 0.0)
    assert {none.choose() for _ in range(TRY_AGAIN - 1)} == {None}
    assert none.choose() is not None, "now and then one is tried again"
    assert policy(0.0, 0.0, min_gain=0.0).choose() is not None
    assert ExitPolicy([], None, num_layers=8).choose() is None


def test_an_exit_that_is_never_sure_on_this_text_is_given_up_and_taken_up_again() -> None:
    one = policy(0.8, 0.0)
    for _ in range(400):
        chosen = one.choose()
        if chosen is None:
            break
        assert not one.is_sure(left := chosen, UNSURE)
    assert one.choose() is None
    for _ in range(400):
        assert one.is_sure(left, SURE)
    chosen = one.choose()
    assert chosen is not None and chosen.num_layers == 2


def test_a_token_leaves_only_above_the_threshold() -> None:
    half = np.log(np.array([0.75, 0.25], np.float32))
    rows = np.stack([half, SURE[:2], UNSURE[:2]])
    assert exit_at(2, 0.5, threshold=0.50001).judge.are_sure(rows).tolist() == [False, True, False]
    assert exit_at(2, 0.5, threshold=0.4999).judge.are_sure(rows).tolist() == [True, True, False]


# Times


def own_model(tiny_stages: Model, folder: Path | None) -> Model:
    fresh = copy.copy(tiny_stages)
    fresh.shared, fresh.profiles = SharedStores(), folder
    return fresh


def test_times_are_measured_once_and_then_read(tiny_stages: Model, tmp_path: Path) -> None:
    measured = exit_times(own_model(tiny_stages, tmp_path))
    assert set(measured.exit_s) == set(measured.late_s) == {1, 2, 3}
    assert measured.full_s > 0 and min(measured.exit_s.values()) > 0
    assert set(measured.states_s) == {2, 3}, "nothing goes into the first stage but tokens"
    assert all(min(parts) > 0 for parts in measured.states_s.values())
    assert all(len(late) == len(LATE_ROWS) and min(late) > 0 for late in measured.late_s.values())
    assert exit_times(own_model(tiny_stages, tmp_path), num_rounds=1) == measured
    (file,) = tmp_path.iterdir()
    file.write_text("{}")
    assert exit_times(own_model(tiny_stages, tmp_path), num_rounds=1) != measured
    assert json.loads(file.read_text())["finding"]["full_s"] > 0
    assert exit_times(own_model(tiny_stages, None), num_rounds=1).full_s > 0


# Opening


def calibrated(model: Model, folder: Path) -> Model:
    """Return the model as a new process opens it, with a kept calibration."""
    fresh = own_model(model, folder)
    levels = (
        Level(agreement=0.9, metric="gap", threshold=0.1, share=0.9),
        Level(agreement=0.98, metric="gap", threshold=None, share=0.0),
    )
    known = ExitThresholds(
        num_tokens=4321,
        error_rate=0.05,
        exits=(ExitLevels(num_layers=2, agreement=0.7, levels=levels),),
    )
    note = exits_note(model.manifest)
    note.save(known, note.path(folder))
    return fresh


def test_an_agreement_opens_the_exits_that_keep_it_and_says_what_it_promises(
    tiny_stages: Model, tmp_path: Path
) -> None:
    model = calibrated(tiny_stages, tmp_path)
    opened, promise = open_policy(model, 0.85, min_gain=0.0)
    chosen = opened.choose()
    assert chosen == Exit(
        num_layers=2, num_stages=2, share=0.5, text=None, judge=Gate(metric="gap", threshold=0.1, share=0.9)
    )
    assert promise == "85 % of tokens as the full model's, calibrated on 4321 tokens"
    assert open_policy(model, 0.9999)[1].startswith("99.99 % of tokens")
    assert opened.pays and not open_policy(model, 0.85, min_gain=1e9)[0].pays
    opened, promise = open_policy(model, 0.97, min_gain=0.0)
    assert opened.choose() is None
    assert promise.endswith(" on 4321 tokens; no exit keeps that, so none is used")


def test_full_agreement_needs_no_calibration(tiny_stages: Model) -> None:
    opened, promise = open_policy(own_model(tiny_stages, None), 1.0)
    assert opened.choose() is None and "no exit is used" in promise


def test_without_a_calibration_the_command_is_named(tiny_stages: Model, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(ConfigError, match="not calibrated; run `skipstone tune exits BUNDLE --text FILE` once"):
            open_policy(own_model(tiny_stages, folder), 0.9)


def test_a_file_given_is_used_in_place_of_the_kept_one(tiny_stages: Model, tmp_path: Path) -> None:
    calibrated(tiny_stages, tmp_path)
    file = exits_note(tiny_stages.manifest).path(tmp_path)
    opened, _ = open_policy(own_model(tiny_stages, None), 0.9, calibration=file, min_gain=0.0)
    assert opened.choose() is not None


def test_a_damaged_calibration_is_refused_by_name(tiny_stages: Model, tmp_path: Path) -> None:
    model = calibrated(tiny_stages, tmp_path)
    file = exits_note(tiny_stages.manifest).path(tmp_path)
    file.write_text(file.read_text().replace("last_stage_from", "last"))
    with pytest.raises(
        ConfigError, match=r"is no calibration of exits: exits\[0\]\.last_stage_from is missing; make it"
    ):
        open_policy(model, 0.85, min_gain=0.0)


def test_a_calibration_of_other_exits_is_refused(tiny_stages: Model, tmp_path: Path) -> None:
    manifest, file = tiny_stages.manifest, tmp_path / "own.json"
    exits = (ExitLevels(num_layers=9, agreement=0.7, levels=()),)
    exits_note(manifest).save(ExitThresholds(num_tokens=4321, error_rate=0.05, exits=exits), file)
    with pytest.raises(
        ConfigError, match=r"own\.json knows exits after 9 layers, the bundle has others; make one with"
    ):
        open_policy(own_model(tiny_stages, None), 0.9, calibration=file)


@pytest.mark.parametrize(("starts", "is_read"), [(1, True), (0, False), (None, False)])
def test_saturation_is_believed_only_around_the_stage_it_was_measured_around(
    tiny_stages: Model, tmp_path: Path, starts: int | None, is_read: bool
) -> None:
    level = Level(agreement=0.9, metric="saturation", threshold=0.1, share=0.9)
    manifest, file = tiny_stages.manifest, tmp_path / "own.json"
    known = ExitThresholds(
        num_tokens=4321,
        error_rate=0.05,
        exits=(ExitLevels(num_layers=2, agreement=0.7, levels=(level,), last_stage_from=starts),),
    )
    exits_note(manifest).save(known, file)
    if is_read:
        chosen = open_policy(own_model(tiny_stages, None), 0.9, calibration=file, min_gain=0.0)[0].choose()
        assert chosen is not None and chosen.judge.reads_states
    else:
        with pytest.raises(
            ConfigError, match=f"from layer {starts} to the exit after 2, the bundle has one from layer 1"
        ):
            open_policy(own_model(tiny_stages, None), 0.9, calibration=file)


@pytest.mark.parametrize("agreement", [0.5, 1.01, -1.0, float("nan")])
def test_an_agreement_that_is_none_is_refused(tiny_stages: Model, agreement: float) -> None:
    with pytest.raises(ConfigError, match=r"min_agreement must lie between 0\.8 and 1"):
        open_policy(tiny_stages, agreement)


def test_a_bundle_without_exits_is_refused_at_any_agreement(tiny: Model) -> None:
    for agreement in (0.9, 1.0):
        with pytest.raises(ConfigError, match="the bundle has no exits"):
            open_policy(tiny, agreement)

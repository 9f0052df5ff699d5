"""Training of exits: they come closer to the full model, a run that was cut off ends as if it had not been."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_families import FAMILIES
from command_line import CommandLine
from conftest import MakeCheckpoint
from torch.optim.optimizer import register_optimizer_step_post_hook

from skipstone.api import export, plan
from skipstone.errors import ConfigError, OutputError
from skipstone.exporters.checkpoints import ADAPTERS_FILE, ExitAdapters
from skipstone.runtime.engine import Model
from skipstone.runtime.methods.depth import depth_hidden, depth_logits
from skipstone.train import (
    ExitTraining,
    LearningAdapter,
    SharedHead,
    TrainingPlan,
    batches_from,
    plan_training,
    schedule,
    train,
)

TEXT = " ".join(np.random.default_rng(0).choice(["def", "add", "self", "tokens", "(", "):", "\n", "fox"], size=1500))
FEW = ExitTraining(exits="2,3", steps=6, learning_rate=0.01)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def planned(checkpoint: Path, output: Path, training: ExitTraining = FEW, **options: Any) -> TrainingPlan:
    return plan_training(checkpoint, [TEXT], output=output, training=training, **options)


# What is learned


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "llama" else pytest.mark.slow) for name in FAMILIES]
)
def test_exits_learn_to_say_what_the_full_model_says(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, family: str
) -> None:
    checkpoint, file = make_checkpoint(family, **FAMILIES[family]), tmp_path / "file"
    losses: list[float] = []
    chosen = planned(checkpoint, file, replace(FEW, steps=20, held_out=0.2))
    reports = train(chosen, on_progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 20 and losses[-1] < losses[0]
    for report in reports:
        assert report.agreement_after > report.agreement_before
        assert report.kl_after < report.kl_before
    model = Model.open(export(checkpoint, tmp_path / "bundle", precision="fp32", exits="2,3", exit_adapters=file))
    found = [np.zeros(2), 0]
    for window in chosen.held_out:
        for logits in depth_logits(model, window):
            found[0] += [(logits[layers].argmax(1) == logits[4].argmax(1)).sum() for layers in (2, 3)]
            found[1] += len(logits[4])
    np.testing.assert_allclose(found[0] / found[1], [report.agreement_after for report in reports], atol=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_and_an_untrained_adapter_in_torch_are_those_of_the_graph(
    make_checkpoint: MakeCheckpoint, make_bundle: Any, family: str
) -> None:
    checkpoint = make_checkpoint(family, **FAMILIES[family])
    head = SharedHead(plan(checkpoint, precision="fp32", exits="2"))
    adapter = LearningAdapter(52, 8, torch.Generator().manual_seed(0))
    model = Model.open(make_bundle(checkpoint, exits="2"))
    token_ids = np.random.default_rng(0).integers(0, 300, size=20).tolist()
    (hidden,), (wanted,) = depth_hidden(model, token_ids), depth_logits(model, token_ids)
    with torch.no_grad():
        for layers in (2, 4):
            largest = np.abs(wanted[layers]).max()
            for states in (torch.tensor(hidden[layers]), adapter(torch.tensor(hidden[layers]))):
                np.testing.assert_allclose(head.logits(states), wanted[layers], atol=1e-5 * largest)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        train(planned(tiny_checkpoint, tmp_path / name, replace(FEW, seed=seed)))
    first, second, third = ((tmp_path / name).read_bytes() for name in ("first", "second", "third"))
    assert first == second != third
    assert ExitAdapters.open(tmp_path / "first").ranks == {2: 13, 3: 13}


def test_windows_come_once_an_epoch_in_an_order_that_can_be_taken_up_anywhere() -> None:
    windows = [[number] * 512 for number in range(7)]
    steps = list(islice(batches_from(0, windows, 3), 21))
    flat = [window[0] for batch in steps for window in batch]
    assert [len(batch) for batch in steps] == [2] * 21
    epochs = [flat[start : start + 7] for start in range(0, 42, 7)]
    assert all(Counter(epoch) == Counter(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert list(islice(batches_from(5, windows, 3), 16)) == steps[5:]
    assert next(batches_from(0, windows, 4)) != steps[0]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert rates.index(max(rates)) == 4 and rates[0] < 0.3 and rates[-1] < 0.001
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert schedule(0, 1) == 1


# Interrupted


@pytest.mark.parametrize("where", ["between steps", "inside a step"])
def test_a_run_that_was_interrupted_goes_on_and_gives_the_same_file(
    tiny_checkpoint: Path, tmp_path: Path, where: str
) -> None:
    train(planned(tiny_checkpoint, tmp_path / "whole"))
    with interrupted(inside=where == "inside a step"), pytest.raises(KeyboardInterrupt):
        train(planned(tiny_checkpoint, tmp_path / "cut"), on_progress=interrupting(where == "between steps"))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut.partial"}
    rest = planned(tiny_checkpoint, tmp_path / "cut")
    assert rest.first_step == 3
    steps: list[int] = []
    train(rest, on_progress=lambda step, loss: steps.append(step))
    assert steps == [4, 5, 6]
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not (tmp_path / "cut.partial").exists()


@contextmanager
def interrupted(*, inside: bool) -> Iterator[None]:
    """Make Ctrl-C come when the fourth step has changed the weights and is not yet over."""
    steps = count(1)

    def after_step(*_: object) -> None:
        if next(steps) == 4:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(after_step) if inside else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def interrupting(wanted: bool) -> Any:
    def on_progress(step: int, loss: float) -> None:
        if wanted and step == 3:
            raise KeyboardInterrupt

    return on_progress


def test_the_state_is_kept_while_a_run_goes_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found: list[int] = []

    def on_progress(step: int, loss: float) -> None:
        if step > 1:
            found.append(planned(tiny_checkpoint, tmp_path / "file").first_step)

    train(planned(tiny_checkpoint, tmp_path / "file"), on_progress=on_progress, save_every_s=0.0)
    assert found == [1, 2, 3, 4, 5]


@pytest.fixture
def cut(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The file of a run that was cut off after three steps."""
    with pytest.raises(KeyboardInterrupt):
        train(planned(tiny_checkpoint, tmp_path / "file"), on_progress=interrupting(True))
    return tmp_path / "file"


def test_a_run_with_other_settings_is_refused_until_restarted(tiny_checkpoint: Path, cut: Path) -> None:
    with pytest.raises(ConfigError, match=r"rank was 13, is 8; give the same settings to go on, or --restart"):
        planned(tiny_checkpoint, cut, replace(FEW, rank=8))
    with pytest.raises(ConfigError, match="unfinished run with other settings: text was "):
        plan_training(tiny_checkpoint, [TEXT * 2], output=cut, training=FEW)
    assert planned(tiny_checkpoint, cut, replace(FEW, rank=8), restart=True).first_step == 0


def test_a_damaged_state_is_refused_until_restarted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(b"none")
    with pytest.raises(ConfigError, match="is no state of an earlier run that can be read; begin anew with --restart"):
        planned(tiny_checkpoint, tmp_path / "file")
    train(planned(tiny_checkpoint, tmp_path / "file", restart=True))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 2, "epochs": 1}, "give one of them"),
        ({"learning_rate": 0.0}, "learning rate must be above 0"),
        ({"held_out": 0.6}, "must lie above 0 and up to 0.5, got 0.6"),
        ({"rank": 53}, "rank 53 is more than the hidden size of 52"),
        ({"exits": "none"}, "there is nothing to train without exits"),
        ({"exits": "4"}, "an exit lies between layer 1 and 3 of this model"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(tiny_checkpoint, tmp_path / "file", ExitTraining(**settings))
    assert not [*tmp_path.iterdir()]


def test_a_short_text_is_refused_with_how_many_tokens_are_wanted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the text has \d{3} tokens; training wants at least 2000"):
        plan_training(tiny_checkpoint, [TEXT[:900]], output=tmp_path / "file")


def test_without_torch_it_says_what_to_install(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install skipstone\[train\]"):
        planned(tiny_checkpoint, tmp_path / "file")


@pytest.mark.parametrize("checkpoint", ["model.gguf", "owner/name", "pebble"])
def test_a_checkpoint_that_is_no_folder_needs_a_place_for_the_file(checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=f"{checkpoint} is no folder .* name a file with -o"):
        plan_training(checkpoint, [TEXT])


def test_a_place_that_is_taken_or_cannot_be_written_is_refused_before_any_work(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="missing/file cannot be written: No such file or directory; choose"):
        planned(tiny_checkpoint, tmp_path / "missing" / "file")
    with pytest.raises(OutputError, match="is a folder; name a file"):
        planned(tiny_checkpoint, tmp_path)
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists; choose another place with -o, or replace it with --restart"):
        planned(tiny_checkpoint, tmp_path / "file")
    planned(tiny_checkpoint, tmp_path / "file", restart=True)
    assert (tmp_path / "file").read_bytes() == b"old", "it is replaced by a whole one only"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


# The command


def test_the_command_trains_into_the_folder_and_the_next_export_takes_it(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, text_file: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(bos_token_id=1, num_hidden_layers=2)
    outcome = cli("train-exits", checkpoint, "--text", text_file, "--exits", 1, "--steps", 2, "--rank", 4)
    assert outcome.code == 0
    head, rule, row = outcome.out.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("exit", "agreement before", "after", "KL before", "after")
    ]
    assert row.startswith("| 1 layers |") and set(rule) == {"|", "-"}
    file = checkpoint / ADAPTERS_FILE
    assert outcome.err.startswith(f"{file}: 2 steps, ")
    exported = cli("export", checkpoint, "-o", tmp_path / "out", "--exits", "auto")
    assert exported.err.startswith(f"exits after 1 layers take their adapters from {file}\n")
    assert "adapters" not in cli("export", checkpoint, "-o", tmp_path / "plain").err
    again = cli("train-exits", checkpoint, "--text", text_file, "--exits", 1)
    assert again.code == 2 and "exists; choose another place" in again.err
    file.unlink()


def test_the_command_goes_on_where_it_was_interrupted_and_says_so(
    cli: CommandLine, tiny_checkpoint: Path, text_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    command = ("train-exits", tiny_checkpoint, "--text", text_file, "-o", file, "--exits", 2, "--steps", 6)
    with interrupted(inside=True):
        outcome = cli(*command)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == (f"kept in {file}.partial; the same command goes on from there\nskipstone: interrupted\n")
    other = cli(*command, "--seed", 3)
    assert other.code == 2 and "seed was 0, is 3" in other.err and len(other.err.splitlines()) == 1
    outcome = cli(*command, "--json")
    assert outcome.err.startswith(f"going on from step 3 of 6, kept in {file}.partial\n{file}: 6 steps, ")
    told = json.loads(outcome.out)
    assert (told["steps"], told["rank"], [one["num_layers"] for one in told["exits"]]) == (6, 13, [2])
    assert cli(*command, "--restart", "-q").err == ""

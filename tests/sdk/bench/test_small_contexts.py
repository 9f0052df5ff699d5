"""Benchmarks of models with a small context: they run, or say by which of their own options they would."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint

CONTEXT = 16


@pytest.fixture(scope="module")
def bundle(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Path:
    return make_bundle(make_checkpoint(max_position_embeddings=CONTEXT))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "bench speed",
            "a prompt of 128 tokens and 96 new ones need 224, the model's context has 16; lower --prompt-tokens or "
            "--new-tokens",
        ),
        ("bench suite", "the model's context has 16; make fewer new tokens with --new-tokens, or take another --suite"),
        ("tune threads", "96 new tokens need a context of 97, the model's has 16; lower --new-tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_options_of_the_command(
    cli: CommandLine, bundle: Path, command: str, message: str
) -> None:
    outcome = cli(*command.split(), bundle)
    assert outcome.code == 2
    assert message in outcome.err


def test_the_largest_that_fits_runs(cli: CommandLine, bundle: Path) -> None:
    sizes = ("--prompt-tokens", 10, "--new-tokens", 6, "--runs", 1)
    assert cli("bench", "speed", bundle, *sizes, "--output", "csv").code == 0


def test_tune_threads_takes_a_prompt_that_fits(cli: CommandLine, bundle: Path) -> None:
    outcome = cli("tune", "threads", bundle, "--most", 1, "--new-tokens", 15, "--runs", 1, "--quiet")
    assert outcome.code == 0, outcome.err

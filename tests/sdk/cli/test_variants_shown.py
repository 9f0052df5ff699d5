"""What the commands show of graphs beside the plain ones: sizes, defaults, progress, and whose a prompt cache is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint

from skipstone.api import plan
from skipstone.runtime.engine import MOST_PREFILL_KL

SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256}


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("llama", **SIZES)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(checkpoint, precision="int8", experts="auto", cache="int8", prefill="int8")


def test_inspect_counts_what_the_graphs_beside_the_plain_ones_add(cli: CommandLine, bundle: Path) -> None:
    facts = json.loads(cli("inspect", bundle, "--json").out)
    parts = facts["parts_bytes"]
    assert {"experts", "prompts in int8", "cache scales"} <= set(parts)
    assert parts["cache scales"] == 2 * 2 * 2 * 16 * 4  # layers, key and value, heads, size, fp32
    assert 0.98 * facts["weights_bytes"] < sum(parts.values()) <= facts["weights_bytes"]


def test_inspect_says_what_reads_prompts(cli: CommandLine, bundle: Path, tiny_checkpoint: Path) -> None:
    facts = json.loads(cli("inspect", bundle, "--json").out)
    kl = facts["manifest"]["check"]["prefill"]["kl"]
    when = "by default" if kl <= MOST_PREFILL_KL else "with --prefill int8 only"
    assert facts["prefill"] == f"int8 {when}, KL of answers {kl:.4f}"


def test_progress_counts_weights_that_graphs_for_prompts_read_again(checkpoint: Path, tmp_path: Path) -> None:
    planned, read = plan(checkpoint, prefill="int8", precision="int8"), list[int]()
    planned.write(tmp_path / "out", on_progress=read.append)
    total, bytes_each = planned.work
    assert 0.7 * total < sum(read) * bytes_each <= 1.01 * total


def test_a_prompt_cache_of_another_way_to_read_prompts_says_so(cli: CommandLine, bundle: Path, tmp_path: Path) -> None:
    generate = ("generate", bundle, "-p", "def add(first, second)", "-n", "2", "--prompt-cache", tmp_path / "kept")
    assert cli(*generate, "--prefill", "int8").code == 0
    assert "another --cache or another --prefill" in cli(*generate, "--prefill", "same").err


def test_examples_of_each_eval_stand_on_lines_of_their_own(cli: CommandLine) -> None:
    for kind in ("text", "method", "stops", "choices", "sparsity"):
        assert "\\b" not in cli("eval", kind, "--help").out

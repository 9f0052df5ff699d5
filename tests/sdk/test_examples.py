"""Every example runs as it stands."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from skipstone.exporters.families import FAMILIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)


def test_exporting_and_running_in_ten_lines(tmp_path: Path) -> None:
    done = run(EXAMPLES / "export_and_run.py", "pebble", tmp_path / "bundle")
    assert done.stdout.strip()
    assert (tmp_path / "bundle" / "skipstone.json").is_file()


def test_streaming_into_an_app_that_cancels() -> None:
    assert run(EXAMPLES / "stream_with_cancel.py").stdout.endswith("[cancelled]\n")


def test_a_batch_job_answers_every_line_and_passes_the_other_fields_through(tmp_path: Path) -> None:
    jobs = [{"id": index, "prompt": prompt} for index, prompt in enumerate(["import os\n", "class A:", "x = ", "#"])]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)) + "\n")
    done = run(EXAMPLES / "batch_jsonl.py", tmp_path / "jobs.jsonl", "--at-once", "3", "--max-new-tokens", "8")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3]
    assert all(answer["text"] and answer["finish_reason"] in ("stop", "length") for answer in answers)


def shown_families() -> dict[str, str]:
    """Return the name of each family of the example, by its `model_type`."""
    shown = runpy.run_path(str(EXAMPLES / "families" / "checkpoints.py"))["FAMILIES"]
    return {model_type: name for name, (model_type, _) in shown.items()}


def test_the_example_of_all_families_has_every_one_but_those_that_only_wrap_another() -> None:
    wrappers = {name for name, family in FAMILIES.items() if family.nested}
    assert {"gemma3", "gemma3n"} <= wrappers
    assert shown_families().keys() == FAMILIES.keys() - wrappers


def test_the_page_of_families_measures_each_and_says_what_is_special_to_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("<!-- table -->\n")[2].partition("<!-- end of table -->")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| (\w+) \| \d\.\de-\d\d \| \d\.\d{4} \| \d\.\d{4} \|$", table, re.M))
    assert rows == {name: model_type for model_type, name in shown_families().items()}
    special = text.partition("## What is special to each\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| [^|]+ \| ([\w, ]+) \|", special, re.M)
    assert {model_type for names in named for model_type in names.split(", ")} == FAMILIES.keys()


@pytest.mark.slow
def test_families_are_exported_checked_and_generated_from(tmp_path: Path) -> None:
    page = tmp_path / "families.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    done = run(EXAMPLES / "families" / "run.py", "gemma3_text", "gpt2", "mixtral", "--markdown", page)
    header, line, *rows = done.stdout.splitlines()
    assert (header.count("|"), set(line)) == (6, {"|", "-"})
    assert [row.split(" | ")[1] for row in rows] == ["gemma3_text", "gpt2", "mixtral"]
    for row in rows:
        error, int8, int4 = map(float, row.strip("| ").split(" | ")[2:])
        assert 0 < error < 1e-4 and 0 <= int8 < 0.02 and 0 < int4 < 0.1
    table = "\n".join([header, line, *rows])
    assert page.read_text() == f"before\n<!-- table -->\n{table}\n<!-- end of table -->\nafter\n"


def test_examples_stay_below_fifty_lines() -> None:
    assert {file.name: len(file.read_text().splitlines()) < 50 for file in EXAMPLES.glob("*.py")} == {
        file.name: True for file in EXAMPLES.glob("*.py")
    }

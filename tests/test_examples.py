"""Every example runs as it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


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


def test_examples_stay_below_fifty_lines() -> None:
    assert {file.name: len(file.read_text().splitlines()) < 50 for file in EXAMPLES.glob("*.py")} == {
        file.name: True for file in EXAMPLES.glob("*.py")
    }

"""The browser's runtime, checked and tested by its own tools: the tokens that Python writes, in Node and in Chromium.

Skipped, with the reason, where Node, the npm registry or a browser is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from skipstone.runtime.bundle.formats import FORMAT_VERSION

WEB = Path(__file__).parents[2] / "web"
LIMIT_S = 120.0
NO_BROWSER = 77


def test_the_browser_reads_the_format_that_is_written() -> None:
    manifest = (WEB / "src/bundle/manifest.ts").read_text(encoding="utf-8")
    assert f"FORMAT_VERSION = {FORMAT_VERSION};" in manifest


@pytest.mark.web
@pytest.mark.slow
def test_the_browser_writes_what_python_writes(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: the browser's runtime is tested where Node is installed")
    steps = Steps(LIMIT_S, os.environ | {"SKIPSTONE_TRACES": str(tmp_path)})
    install = steps.run(npm, "ci", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=20000")
    if install.returncode:
        pytest.skip(f"npm finds no packages: {_last_line(install.stderr)}")
    for command in ((npm, "run", "check"), (sys.executable, "traces.py", str(tmp_path)), (npm, "test")):
        result = steps.run(*command)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    browser = steps.run(npm, "run", "browser")
    if browser.returncode == NO_BROWSER:
        pytest.skip("the page itself is not tested: install chromium, or name one in SKIPSTONE_CHROMIUM")
    assert browser.returncode == 0, f"{browser.stdout}\n{browser.stderr}"


class Steps:
    """Commands in the folder of the browser's runtime, which together have so many seconds."""

    def __init__(self, limit_s: float, environment: Mapping[str, str]) -> None:
        self._end, self._environment = monotonic() + limit_s, environment

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command; where no time is left it ends, with all that it started, and the test is skipped."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        child = subprocess.Popen(command, cwd=WEB, env=self._environment, start_new_session=True, **pipes)
        try:
            output, errors = child.communicate(timeout=max(self._end - monotonic(), 1))
            return subprocess.CompletedProcess(command, child.returncode, output, errors)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            pytest.skip(f"{' '.join(command[1:])} takes too long here: all have {LIMIT_S:.0f} s together")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1]
